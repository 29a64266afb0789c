"""Sites that an unharmed path does not pass, with the reason why no crash there can lose anything.

A key is the beginning of a site's name. What stands here is passed never, or, in ``SOMETIMES``, by chance.
"""

AFTER_A_FAILURE = "after a failure; the statements are those of the undisturbed path"
BY_HAND = "for an operator's command, which sees it fail"
READS = "only reads"
CLEANS = "removes what is past its time; the next round removes the rest"
AT_THE_END = "in an orderly end"
RARE_LOOK = "another look at BTCPay, which changes nothing there"
NARROW = "waits within this process"
POSTPONES = "says when to look again; a start looks at once"
ASKS = "a question of the vigil, which creates nothing"
RESTORED = "raises versions, in one statement that a repeat only raises further"

UNPASSED = {
    "btcpay.client.BtcpayClient.__aexit__": AT_THE_END,
    "btcpay.client.BtcpayClient._read: self._exchange() #2": RARE_LOOK,
    "btcpay.client.BtcpayClient.create_webhook": BY_HAND,
    "btcpay.client.BtcpayClient.current_key": BY_HAND,
    "btcpay.client.BtcpayClient.fetch_confirmations": RARE_LOOK,
    "btcpay.client.BtcpayClient.fetch_invoice": RARE_LOOK,
    "btcpay.client.BtcpayClient.fetch_store": BY_HAND,
    "btcpay.client.BtcpayClient.list_deliveries": BY_HAND,
    "btcpay.client.BtcpayClient.list_webhooks": BY_HAND,
    "btcpay.client.BtcpayClient.mark": BY_HAND,
    "btcpay.client.BtcpayClient.payment_methods": BY_HAND,
    "btcpay.client.BtcpayClient.probe": ASKS,
    "btcpay.client.BtcpayClient.server_info": BY_HAND,
    "btcpay.client.BtcpayClient.try_creation": ASKS,
    "btcpay.client.BtcpayClient.update_webhook": BY_HAND,
    "mqtt.conversation.Conversation._keep_saying_hello": AFTER_A_FAILURE,
    "mqtt.publisher.Publisher.run: session.finish()": AT_THE_END,
    "mqtt.publisher._Session._room_for_one": NARROW,
    "mqtt.publisher._Session._sweep: self._room_for_one()": NARROW,
    "mqtt.publisher._Session._send_document: self.watermark.until_acknowledged()": NARROW,
    "mqtt.watermark.WatermarkWriter.until_acknowledged": NARROW,
    "mqtt.watermark.WatermarkWriter._reserve": "once in half a million versions; as at a start",
    "mqtt.watermark.WatermarkWriter.run: self._reserve()": "once in half a million versions",
    "mqtt.publisher._Session.finish": AT_THE_END,
    "mqtt.repair.Replay.read_one: self._arrived": AFTER_A_FAILURE,
    "mqtt.repair.Replay.read_one: self._collecting": AFTER_A_FAILURE,
    "mqtt.repair.repair: entitlements.begin_versions_above()": RESTORED,
    "mqtt.repair.repair: entitlements.raise_versions()": RESTORED,
    "mqtt.usage_intake.UsageSession._keep_counting: self._link.wait_lost()": AFTER_A_FAILURE,
    "mqtt.usage_intake.UsageSession._keep_reading: self._room": NARROW,
    "services.expiry.Expiry._end_alone": AFTER_A_FAILURE,
    "services.expiry.Expiry._end_due: self._end_alone()": AFTER_A_FAILURE,
    "services.invoicing.Invoicing._abandon": AFTER_A_FAILURE,
    "services.invoicing.Invoicing._complete: self._find()": AFTER_A_FAILURE,
    "services.invoicing.Invoicing._complete: self._wait_until_attached()": AFTER_A_FAILURE,
    "services.invoicing.Invoicing._create: self._abandon()": AFTER_A_FAILURE,
    "services.invoicing.Invoicing._create: self._find()": AFTER_A_FAILURE,
    "services.invoicing.Invoicing._find": AFTER_A_FAILURE,
    "services.invoicing.Invoicing._refresh: self.settlement.look_up()": RARE_LOOK,
    "services.invoicing.Invoicing._refresh: self.settlement.settle()": "settles as a webhook does",
    "services.invoicing.Invoicing._try: invoices.release()": AFTER_A_FAILURE,
    "services.invoicing.Invoicing._try: self.pool.connection()": AFTER_A_FAILURE,
    "services.invoicing.Invoicing._wait_until_attached": AFTER_A_FAILURE,
    "services.invoicing.Invoicing.open: ": "for callers without a key; the same way",
    "services.metering.Metering._count_alone": AFTER_A_FAILURE,
    "services.metering.Metering.count: self._count_alone()": AFTER_A_FAILURE,
    "services.observations.look_up.confirm": RARE_LOOK,
    "services.observations.look_up.fetch": RARE_LOOK,
    "services.reconciliation.Reconciliation._settle: self.settlement.settle() #2": AFTER_A_FAILURE,
    "services.reconciliation.Reconciliation.run_once: invoices.abandon()": AFTER_A_FAILURE,
    "services.reconciliation.Reconciliation.run_once: self.begin()": "when the clock was set; as at a start",
    "services.reconciliation.Reconciliation.run_once: invoices.postpone()": POSTPONES,
    "services.reconciliation.Reconciliation.run_once: self.pool.connection() #2": POSTPONES,
    "services.reservations._Book.load: invoices.load()": READS,
    "services.settlement.Settlement._settle_alone": AFTER_A_FAILURE,
    "services.settlement.Settlement.run_once: self._settle_alone()": AFTER_A_FAILURE,
    "services.settlement.Settlement.settle_by_hand": BY_HAND,
    "store.attention.open_cases": "in the transaction of its caller, whose other statements are points",
    "store.deliveries.oldest_unhandled": READS,
    "store.deliveries.remove_handled": CLEANS,
    "store.entitlements.load_greatest_version": READS,
    "store.entitlements.load_risen": READS,
    "store.entitlements.oldest_waiting": READS,
    "store.events.load_of_user": READS,
    "store.events.oldest_unpublished": READS,
    "store.idempotency.remove": CLEANS,
    "store.invoices.abandon": AFTER_A_FAILURE,
    "store.invoices.decide": BY_HAND,
    "store.invoices.load: ": READS,
    "store.invoices.load_page": READS,
    "store.invoices.postpone": POSTPONES,
    "store.invoices.release": AFTER_A_FAILURE,
    "store.invoices.take_over": AFTER_A_FAILURE,
    "store.postgres.Database.": "opens a connection",
    "store.postgres.Pool.__aexit__": AT_THE_END,
    "store.postgres._Transaction.__aexit__: self._session.execute()": AFTER_A_FAILURE,
    "store.subscriptions.count_history": READS,
    "store.subscriptions.load_history": READS,
    "store.usage.load_": READS,
    "store.usage.remove_": CLEANS,
    "web.invoices._list": READS,
}

SOMETIMES = {
    "services.inbox.Inbox._write: deliveries.notify()": "when it does not lead yet",
    "store.deliveries.notify": "when it does not lead yet",
}

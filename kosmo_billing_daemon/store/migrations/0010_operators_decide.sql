-- What an operator took back, or closed without giving any rights, no mark at BTCPay gives again.
ALTER TABLE btcpay_invoices DROP CONSTRAINT btcpay_invoices_effect_is_known;
ALTER TABLE btcpay_invoices ADD CONSTRAINT btcpay_invoices_effect_is_known
    CHECK (effect IN ('none', 'fulfilled', 'revoked', 'withdrawn', 'declined'));
-- A revocation that BTCPay did not ask for was an operator's.
UPDATE btcpay_invoices AS i SET effect = 'withdrawn' FROM subscriptions AS s
WHERE s.invoice_id = i.id AND s.revoked_at IS NOT NULL AND i.effect = 'fulfilled';

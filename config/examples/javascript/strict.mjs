// A strict gateway in JavaScript, written from asyncapi.json ("Leases"): it lets a message through by a lease alone, so
// it needs no count of its own messages and never oversells together with other strict gateways.
// It keeps nothing on disk: a real one writes down leases, questions and what waits to be reported.
//   npm install && echo "USER_ID NODE_ID" | node strict.mjs      (MQTT_URL, MQTT_USERNAME, MQTT_PASSWORD)
import { randomUUID } from "node:crypto";
import { createInterface } from "node:readline";
import mqtt from "mqtt";

const { MQTT_URL = "mqtt://127.0.0.1:1883", MQTT_USERNAME: name = "gateway-1", MQTT_PASSWORD: password } = process.env;
const prefix = "kosmo/billing/v1", documents = new Map(), leases = new Map(), questions = new Map(), waiting = [];
let report = null, sentAt = 0; // the one report under way
const client = mqtt.connect(MQTT_URL, { protocolVersion: 5, clientId: name, username: name, password, resubscribe: false });
const publish = (kind, content) => client.publish(`${prefix}/${kind}/${name}`, JSON.stringify(content), { qos: 1 });
const left = (lease) => lease.messages - lease.used;

function rights(id, node) {
  const doc = documents.get(id);
  if (!doc) return "unknown_user";
  if (doc.status === "expired" || doc.status === "revoked") return doc.status;
  if (doc.scope === "none") return "no_plan";
  if (Date.now() >= Date.parse(doc.grace_until ?? doc.valid_until)) return "expired";
  if (doc.scope === "whitelist" && !doc.allowed_nodes.includes(node.toLowerCase())) return "node_not_allowed";
  return "ok";
}

function usable(id) {
  const doc = documents.get(id);
  return (leases.get(id) ?? []).filter((lease) =>
    lease.subscription_id === doc.subscription_id && Date.now() + 5000 < Date.parse(lease.expires_at) && left(lease) > 0);
}

function take(id) { // returns the lease of one message, or why there is none
  const doc = documents.get(id);
  if (doc.messages_limit === null) return { lease: null };
  const [lease, ...more] = usable(id);
  if (lease) lease.used += 1;
  if (!lease || (left(lease) * 2 <= lease.messages && !more.length)) ask(id); // ahead
  if (lease) return { lease };
  return { reason: doc.messages_used >= doc.messages_limit ? "quota_exhausted" : "no_lease" };
}

function ask(id) {
  const known = questions.get(id);
  if (known && (known.request || Date.now() < known.notBefore)) return;
  const request = { request_id: randomUUID(), user_id: id, want: 8 };
  questions.set(id, { request, askedAt: Date.now() });
  if (client.connected) publish("leases", request);
}

function takeAnswer(answer) {
  const known = questions.get(answer.user_id);
  if (known?.request?.request_id !== answer.request_id) return; // none of ours, or answered before
  if (answer.lease_id) {
    questions.delete(answer.user_id);
    leases.set(answer.user_id, [...(leases.get(answer.user_id) ?? []).filter((l) => left(l) > 0), { ...answer, used: 0 }]);
  } else {
    questions.set(answer.user_id, { notBefore: Date.now() + (answer.reason === "leased_elsewhere" ? 200 : 5000) });
  }
}

function send(again = false) {
  if (again) report = null;
  if (report || !waiting.length || !client.connected) return;
  sentAt = Date.now();
  report = { report_id: randomUUID(), events: waiting.slice(0, 500) };
  publish("usage", report);
}

client.on("connect", async () => {
  await client.subscribeAsync([`${prefix}/usage-acks/${name}`, `${prefix}/lease-grants/${name}`], { qos: 1 });
  for (let shard = 0; shard < 256; shard += 16) { // one subscription to everything would be cut short
    const shards = Array.from({ length: 16 }, (_, i) => (shard + i).toString(16).padStart(2, "0"));
    await client.subscribeAsync(shards.map((s) => `${prefix}/entitlements/${s}/+`), { qos: 1 });
  }
  for (const { request } of questions.values()) if (request) publish("leases", request);
  send(true);
});
client.on("error", (error) => console.error(error.message)); // it connects again by itself
client.on("message", (topic, payload) => {
  const [kind, , id] = topic.slice(prefix.length + 1).split("/");
  const content = payload.length ? JSON.parse(payload) : null;
  if (kind === "lease-grants") takeAnswer(content);
  else if (kind === "usage-acks") {
    if (content.report_id !== report?.report_id) return;
    waiting.splice(0, report.events.length);
    send(true);
  } else if (!content) documents.delete(id);
  else if (!(documents.get(id)?.version >= content.version)) documents.set(id, content);
});
const repeating = setInterval(() => {
  if (!client.connected) return;
  if (report && Date.now() - sentAt > 30_000) send(true);
  for (const known of questions.values()) {
    if (known.request && Date.now() - known.askedAt > 2000) {
      known.askedAt = Date.now();
      publish("leases", known.request); // the same request_id: it is answered with the same lease
    }
  }
}, 500);

for await (const line of createInterface({ input: process.stdin })) {
  const [user_id, node_id] = line.split(" ");
  let reason = rights(user_id, node_id);
  if (reason === "ok") {
    const found = take(user_id);
    reason = found.reason ?? "ok";
    if (reason === "ok") {
      const lease_id = found.lease?.lease_id ?? null;
      waiting.push({ message_id: randomUUID(), user_id, node_id, count: 1, sent_at: new Date().toISOString(), lease_id });
      send();
    }
  }
  console.log(reason);
}
const done = setInterval(async () => {
  if (waiting.length) return;
  clearInterval(done);
  clearInterval(repeating);
  for (const [user_id, held] of leases) { // hand back what was not used
    const kept = held.map(({ lease_id, used }) => ({ lease_id, messages: used }));
    await client.publishAsync(`${prefix}/leases/${name}`,
      JSON.stringify({ request_id: randomUUID(), user_id, want: 0, leases: kept }), { qos: 1 });
  }
  client.end();
}, 50);

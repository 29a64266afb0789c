// A gateway in JavaScript, written from asyncapi.json; numbers in comments are those of its "Own messages".
// It keeps nothing on disk and believes its clock: a real one stores what waits, and asks for the time.
//   npm install && echo "USER_ID NODE_ID" | node gateway.mjs      (MQTT_URL, MQTT_USERNAME, MQTT_PASSWORD)
import { randomUUID } from "node:crypto";
import { createInterface } from "node:readline";
import mqtt from "mqtt";

const { MQTT_URL = "mqtt://127.0.0.1:1883", MQTT_USERNAME: name = "gateway-1", MQTT_PASSWORD: password } = process.env;
const prefix = "kosmo/billing/v1", users = new Map(), waiting = [];
let report = null, sentAt = 0; // the one report under way
let steadySince = Infinity; // connected and the daemon online; Infinity while it is not
const client = mqtt.connect(MQTT_URL, { protocolVersion: 5, clientId: name, username: name, password, resubscribe: false });
const user = (id) => users.get(id) ?? users.set(id, { doc: null, acked: [], rejected: [], credit: 0 }).get(id);
const since = (doc) => (message) => !doc?.valid_from || message.at >= Date.parse(doc.valid_from);
const settle = (one) => { // 6
  one.acked = one.acked.filter((message) => Date.now() < Math.max(message.acked, steadySince) + 30_000);
};
const ofUser = (id) => (message) => message.user_id === id;

function decide(id, node) {
  const one = user(id), { doc } = one;
  if (!doc) return "unknown_user";
  if (doc.status === "expired" || doc.status === "revoked") return doc.status;
  if (doc.scope === "none") return "no_plan";
  if (Date.now() >= Date.parse(doc.grace_until ?? doc.valid_until)) return "expired";
  if (doc.scope === "whitelist" && !doc.allowed_nodes.includes(node.toLowerCase())) return "node_not_allowed";
  settle(one);
  const own = [...waiting.filter(ofUser(id)), ...one.acked, ...one.rejected].filter(since(doc)).length; // 1
  return doc.messages_limit === null || doc.messages_used + own < doc.messages_limit ? "ok" : "quota_exhausted";
}

function takeDocument(id, doc) {
  const one = user(id), old = one.doc;
  if (old && old.version >= doc.version) return;
  settle(one);
  const same = old?.subscription_id === doc.subscription_id;
  let growth = same ? Math.max(0, doc.messages_used - old.messages_used) : doc.messages_used; // 3, 5
  for (const list of ["acked", "rejected"]) one[list] = one[list].filter(since(doc)); // 5
  growth -= one.acked.splice(0, growth).length; // 3
  one.credit = Math.min((report?.events ?? []).filter(ofUser(id)).length, one.credit + growth); // 4
  one.doc = doc;
}

function takeAck({ report_id, rejected = [] }) {
  if (report_id !== report?.report_id) return;
  const refused = new Set(rejected.map((rejection) => rejection.message_id));
  for (const message of waiting.splice(0, report.events.length)) {
    const one = user(message.user_id);
    if (refused.has(message.message_id)) one.rejected.push(message); // 2
    else if (one.credit > 0) one.credit -= 1; // 4
    else one.acked.push({ ...message, acked: Date.now() }); // 2
  }
  for (const one of users.values()) one.credit = 0; // 4: nothing is under way
  report = null;
  send();
}

function send() {
  if (report || !waiting.length || !client.connected) return;
  sentAt = Date.now();
  report = { report_id: randomUUID(), events: waiting.slice(0, 500).map(({ at, ...event }) => event) };
  client.publish(`${prefix}/usage/${name}`, JSON.stringify(report), { qos: 1 });
}

function sendAgain() {
  for (const one of users.values()) one.credit = 0; // 4
  report = null;
  send();
}

client.on("connect", async () => {
  steadySince = Infinity;
  await client.subscribeAsync([`${prefix}/status`, `${prefix}/usage-acks/${name}`], { qos: 1 });
  for (let shard = 0; shard < 256; shard += 16) { // one subscription to everything would be cut short
    const shards = Array.from({ length: 16 }, (_, i) => (shard + i).toString(16).padStart(2, "0"));
    await client.subscribeAsync(shards.map((s) => `${prefix}/entitlements/${s}/+`), { qos: 1 });
  }
  sendAgain();
});
client.on("close", () => { steadySince = Infinity; });
client.on("error", (error) => console.error(error.message)); // it connects again by itself
client.on("message", (topic, payload) => {
  const [kind, , id] = topic.slice(prefix.length + 1).split("/");
  const content = payload.length ? JSON.parse(payload) : null;
  if (kind === "status") steadySince = content?.state === "online" ? Date.now() : Infinity;
  else if (kind === "usage-acks") takeAck(content);
  else if (content) takeDocument(id, content);
  else users.delete(id);
});
setInterval(() => report && Date.now() - sentAt > 30_000 && sendAgain(), 1000).unref();

for await (const line of createInterface({ input: process.stdin })) {
  const [user_id, node_id] = line.split(" "), reason = decide(user_id, node_id), at = Date.now();
  if (reason === "ok") { // counted before anything else can ask
    waiting.push({ message_id: randomUUID(), user_id, node_id, count: 1, sent_at: new Date(at).toISOString(), at });
    send();
  }
  console.log(reason);
}
const done = setInterval(() => waiting.length || (clearInterval(done), client.end()), 50);

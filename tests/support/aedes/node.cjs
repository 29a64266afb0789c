// One node of a clustered broker: aedes, with sessions, retained messages and traffic shared through Redis.
// node node.cjs MODULES REDIS_SOCKET PORT NAME
const net = require("node:net");
const { createRequire } = require("node:module");

const [modules, redis, port, name] = process.argv.slice(2);
const load = createRequire(`${modules}/`);
const connection = { path: redis };
const broker = load("aedes")({
  id: name,
  heartbeatInterval: 1000,
  mq: load("mqemitter-redis")(connection),
  persistence: load("aedes-persistence-redis")(connection),
});

// aedes lets a publication overtake one that is still being stored, and then drops the slower one. A broker must
// keep the order of each client (MQTT 3.1.1, 4.6), so here each publication waits for the one before.
const publish = broker.publish.bind(broker);
let last = Promise.resolve();
broker.publish = (packet, client, done) => {
  const told = typeof client === "function" ? client : done;
  const from = typeof client === "function" ? null : client;
  last = last.then(() => new Promise((next) => {
    publish(packet, from, (...answer) => { next(); told?.(...answer); });
  }));
};

net.createServer(broker.handle).listen(Number(port), "127.0.0.1", () => console.log("listening"));

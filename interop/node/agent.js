// Interop peer: redlock over ioredis, driven by lines on stdin. The protocol is
// the same for every agent under interop/: one command per line, exactly one
// answer per command.
"use strict";

const readline = require("node:readline");
const Redis = require("ioredis");
const { default: Redlock, ExecutionError, ResourceLockedError } = require("redlock");

const urls = process.argv.slice(2);
if (urls.length === 0) {
  console.error("usage: agent.js <redis-url>...");
  process.exit(2);
}

const clients = urls.map((url) => {
  const client = new Redis(url, {
    maxRetriesPerRequest: 0, // a server that is down is an answer, not a reason to wait
    autoResendUnfulfilledCommands: false, // a resent lock would meet its own key
    commandTimeout: 1000, // redlock has no timeout per node
    retryStrategy: () => 100, // back soon when a test restarts a server
  });
  client.on("error", () => {}); // else ioredis prints every failed connection
  return client;
});
const redlock = new Redlock(clients, { retryCount: 0 });
const held = new Map(); // name -> Lock

// redlock settles on a quorum; wait for the other votes too, so that the keys
// are in their final state when the answer is printed. Returns the "against"s.
async function votesAgainst(attempts) {
  const stats = await Promise.all(attempts);
  return stats.flatMap((s) => [...s.votesAgainst.values()]);
}

async function lock(name, expiryMs) {
  try {
    const taken = await redlock.acquire([name], expiryMs);
    await votesAgainst(taken.attempts);
    held.set(name, taken);
    return `ok ${taken.value}`;
  } catch (error) {
    if (!(error instanceof ExecutionError)) throw error;
    const against = await votesAgainst(error.attempts);
    const silent = against.filter((e) => !(e instanceof ResourceLockedError));
    // With a majority answering it was other holders that denied the quorum.
    if (2 * (urls.length - silent.length) > urls.length) return "taken";
    return `error ${silent.map((e) => e.message).join("; ")}`;
  }
}

async function extend(name, expiryMs) {
  if (!held.has(name)) return "failed not locked by this agent";
  const extended = await held.get(name).extend(expiryMs);
  await votesAgainst(extended.attempts);
  held.set(name, extended); // the old Lock is spent
  return "ok";
}

async function unlock(name) {
  if (!held.has(name)) return "failed not locked by this agent";
  const taken = held.get(name);
  held.delete(name);
  await votesAgainst((await taken.release()).attempts);
  return "ok";
}

async function answer(line) {
  const [command, name, ms, ...rest] = line.trim().split(/\s+/);
  const expiryMs = /^[1-9]\d*$/.test(ms) ? Number(ms) : undefined;
  const bad = `error bad command: ${line.trim()}`;
  if (!name || rest.length > 0) return bad;
  try {
    if (command === "lock" && expiryMs) return await lock(name, expiryMs);
    if (command === "extend" && expiryMs) return await extend(name, expiryMs);
    if (command === "unlock" && ms === undefined) return await unlock(name);
    return bad;
  } catch (error) {
    if (command === "lock") return `error ${error.message}`;
    // The message only says "no quorum"; the votes say why.
    const why = error.attempts ? await votesAgainst(error.attempts) : [];
    return `failed ${[error, ...why].map((e) => e.message).join("; ")}`;
  }
}

async function main() {
  // redlock does not export its package.json; ours pins the exact version.
  console.log(`ready redlock ${require("./package.json").dependencies.redlock}`);
  for await (const line of readline.createInterface({ input: process.stdin })) {
    if (line.trim() === "quit") break;
    console.log((await answer(line)).replaceAll("\n", "; "));
  }
  process.exit(0); // open connections would keep node alive
}

main();

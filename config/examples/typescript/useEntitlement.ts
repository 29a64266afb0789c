// What the user may do now, live: a thank-you page turns green by itself when the payment settles.
// Reads Server-Sent Events with fetch, since EventSource cannot send a bearer token.
import { useEffect, useState } from "react";
import type { SubscriptionDocument } from "./api";

const URL = "/api/v1/billing/subscription/events";
const wait = (ms: number) => new Promise((done) => setTimeout(done, ms));

/** `refused` is the status of a refusal that repeating does not change: 401 asks for a new login. */
export interface Live {
  entitlement: SubscriptionDocument | null;
  refused: number | null;
}

const NOTHING: Live = { entitlement: null, refused: null };

export function useEntitlement(headers: Record<string, string> = {}): Live {
  const identity = JSON.stringify(headers);
  const [known, setKnown] = useState({ ...NOTHING, identity });
  useEffect(() => {
    const tell = (part: Partial<Live>) => setKnown((before) => ({ ...before, ...part, identity }));
    const stop = new AbortController();
    let lastId = "", retry = 3000;
    const read = async () => {
      const known = lastId ? { "Last-Event-ID": lastId } : {};
      const answer = await fetch(URL, { headers: { ...JSON.parse(identity), ...known }, signal: stop.signal });
      if (answer.status >= 400 && answer.status < 500 && answer.status !== 429) {
        tell({ refused: answer.status });
        return stop.abort();
      }
      const pause = Number(answer.headers.get("Retry-After"));
      if (!answer.ok || !answer.body) return wait(pause * 1000);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = "", next = await reader.read(); !next.done; next = await reader.read()) {
        const blocks = (text + next.value).split("\n\n");
        text = blocks.pop() ?? "";
        for (const field of blocks.flatMap((block) => block.split("\n"))) {
          if (field.startsWith("retry: ")) retry = Number(field.slice(7));
          if (field.startsWith("id: ")) lastId = field.slice(4);
          if (field.startsWith("data: ")) tell({ entitlement: JSON.parse(field.slice(6)) as SubscriptionDocument });
        }
      }
    };
    tell(NOTHING); // new credentials are tried anew
    void (async () => {
      while (!stop.signal.aborted) await read().catch(() => undefined).then(() => wait(retry));
    })();
    return () => stop.abort();
  }, [identity]);
  return known.identity === identity ? known : NOTHING; // never what another user may do
}

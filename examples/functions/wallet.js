// Credits: held when a job is submitted, taken when its document is completed, given back when it failed or never came.
// Each completion is paid once, however often, late and in whatever order it is told. Knows no RunPod.
//
//   wallets/{uid}                    credits, held, spent, granted: credits + held + spent = granted, and none is negative
//   wallets/{uid}/holds/{fileUid}    one asked-for generation: what is held for it, or what became of that
//   wallets/{uid}/ledger/{id}        every grant and every payment; its sum is credits + held
//
// A wallet changes in transactions that read the hold and the generation's document beside it. What is decided there is
// pure: `asked`, `told`, `overdue`. A hold is one round of a fileUid: a failed one may be asked for again, in a new round.

import { FieldValue, getFirestore, Timestamp } from "firebase-admin/firestore";

const CALL_MS = 60_000; // as long as a call of `generate` may take
const LATE_MS = 5 * 60_000; // what a document may be later than its job
const KEPT_MS = 30 * 24 * 3_600_000; // a settled hold; a result that waits on the worker's volume comes within two days
const ATTEMPTS = 15; // of a transaction: one wallet may have many jobs that end at once

const EMPTY = { credits: 0, held: 0, spent: 0, granted: 0 };

// ---- what a document tells --------------------------------------------------------------------------------------

/** Which ending of which job: null while there is none. (What failed for want of storage is completed later.) */
const ending = (document) =>
  hasEnded(document) ? `${document.status} ${document.attempt} ${document.job_id}` : null;

export const hasEnded = (document) => document?.status === "completed" || document?.status === "failed";

/** Whether a change of a document is any news to a wallet: an end that was not there before, or a result that is gone. */
export const isEnd = (before, after) => (hasEnded(before) || hasEnded(after)) && ending(before) !== ending(after);

/** A result that the app can open. One that went inline, with no file in the bucket, is asked for again. */
const isDelivered = (document) =>
  document?.status === "completed" && document.generation_data?.storage === "firebase";

/** An order slip whose user stopped it before a worker took the job. */
const isStopped = (document) => document?.status === "queued" && document.cancel_requested === true;

/** Whether a change of a document takes its job back: it is stopped in the queue, or not there any more. */
export const isWithdrawal = (before, after) => (after ? isStopped(after) && !isStopped(before) : Boolean(before));

const isAlive = (document, now) => document?.status === "processing" && document.expires_at?.toMillis() > now;

/** What so many units cost. */
export const creditsOf = (units, per1000) => Math.ceil((units * per1000) / 1000);

// ---- the rules: pure --------------------------------------------------------------------------------------------

/** The whole hold goes back to the credits. */
const givenBack = (wallet, hold) => ({
  wallet: { ...wallet, credits: wallet.credits + hold.credits, held: wallet.held - hold.credits },
  hold: { ...hold, state: "returned" },
});

/**
 * A delivered document is paid: from what is held, and never more than that. Where the hold was given back before, because
 * the job was thought lost or had failed, it is paid from the credits, as far as they go.
 */
function paid(wallet, hold, document, per1000) {
  const units = document.usage?.units;
  const price = Number.isFinite(units) ? Math.min(hold.credits, creditsOf(units, per1000)) : hold.credits;
  const { wallet: open } = hold.state === "held" ? givenBack(wallet, hold) : { wallet };
  const taken = Math.min(price, open.credits);
  return {
    wallet: { ...open, credits: open.credits - taken, spent: open.spent + taken },
    hold: { ...hold, state: "taken" },
    entry: { credits: -taken, unpaid: price - taken, units: units ?? null },
  };
}

/** Whether a document is news to a hold: what stood there already when it was made is not. */
const isNews = (hold, document) => Boolean(hold) && ending(document) !== null && ending(document) !== hold.after;

/**
 * What the documents say about a hold: `facts` are all that were seen, a later one or none may stand there now, `current`.
 * A completion is a fact for good; a failure only counts while it is what the document says.
 * @returns the new wallet and hold, and the entries of the ledger by id; null where nothing changes.
 */
export function told({ wallet, hold, current, facts, written }, per1000) {
  if (!wallet || !hold) return null; // a job from before there were wallets, or a user who is gone
  let state = { wallet, hold };
  const entries = {};
  for (const document of [...facts, current]) {
    const id = isNews(hold, document) && isDelivered(document) && entryId(hold.file_uid, document);
    if (!id || written.has(id) || id in entries) continue;
    const { entry, ...after } = paid(state.wallet, state.hold, document, per1000);
    entries[id] = { ...entry, file_uid: hold.file_uid, job_id: document.job_id, attempt: document.attempt };
    state = after;
  }
  if (state.hold.state === "held" && isNews(hold, current) && !isDelivered(current))
    state = givenBack(state.wallet, state.hold);
  return state.hold === hold && state.wallet === wallet ? null : { ...state, entries };
}

/** An id in the ledger: one completion of one job has one, so that it cannot be paid twice. */
const entryId = (fileUid, { job_id, attempt }) => `${fileUid}.${attempt}.${encodeURIComponent(job_id)}`;

/**
 * A user asks for a generation. One that was asked for already, with the same input, costs nothing again: its job goes on,
 * or its result is there. (A second job would make a second picture as soon as the user deleted the first.) An id stands for
 * one input for good: an earlier job that was thought lost may still come, and is paid at the price of its hold.
 * `credits` are null where its price is not known: what is held already has one.
 * @returns `{is: "new", wallet, hold}` and `{is: "again", hold}`: submit; `{is: "known", jobId}`: there is a job;
 *   `{is: "busy"}`: another call is submitting it; `{is: "other"}`: the id stands for another input; `{is: "unpriced"}`;
 *   `{is: "poor"}`.
 */
export function asked({ wallet, hold, current }, { fileUid, hash, credits, call, now, ttlMs }) {
  if (hold && hold.request_hash !== hash) return { is: "other" };
  if (hold?.state === "taken" && isDelivered(current)) return { is: "known", jobId: current.job_id };
  if (hold?.state === "held") {
    if (hold.job_id) return { is: "known", jobId: hold.job_id };
    if (hold.call && hold.call.until > now) return { is: "busy" };
    // Nobody knows what became of the last call: its job may still come.
    // This one's lives from now on, and what is held for it does, too.
    const expires_at = Timestamp.fromMillis(now + ttlMs + LATE_MS);
    return { is: "again", hold: { ...hold, call: { id: call, until: now + CALL_MS }, unclear: true, expires_at } };
  }
  if (credits === null) return { is: "unpriced" };
  if (wallet.credits < credits) return { is: "poor" };
  return {
    is: "new",
    wallet: { ...wallet, credits: wallet.credits - credits, held: wallet.held + credits },
    hold: {
      file_uid: fileUid,
      state: "held",
      credits,
      request_hash: hash,
      after: ending(current),
      call: { id: call, until: now + CALL_MS },
      unclear: false,
      job_id: null,
      expires_at: Timestamp.fromMillis(now + ttlMs + LATE_MS),
    },
  };
}

/** RunPod refused this call. Given back, unless an earlier call may have been taken. */
function refused({ wallet, hold }, call) {
  if (hold?.state !== "held" || hold.call?.id !== call) return null;
  if (hold.unclear) return { wallet, hold: { ...hold, call: null } };
  return givenBack(wallet, { ...hold, call: null });
}

/**
 * RunPod has taken this job back: given back, unless a worker has claimed it meanwhile, and ends it. `waits`: its slip still
 * stands there, for nothing.
 */
function dropped({ wallet, hold, current }, jobId, now) {
  if (!wallet || hold?.state !== "held" || hold.job_id !== jobId || isAlive(current, now)) return null;
  return { ...givenBack(wallet, hold), waits: current?.status === "queued" };
}

/** A hold whose job RunPod has dropped by now: given back, unless a worker is still busy with it. */
export function overdue({ wallet, hold, current }, now) {
  if (hold?.state !== "held" || hold.expires_at.toMillis() > now) return null;
  if (!isAlive(current, now)) return givenBack(wallet, hold);
  return { wallet, hold: { ...hold, expires_at: Timestamp.fromMillis(current.expires_at.toMillis() + LATE_MS) } };
}

/** How a worker ends the slip of a job that was stopped before it began (docs/api.md, "The document"). */
const cancelled = (uid, fileUid, jobId) => ({
  status: "failed",
  error: { code: "cancelled", message: "the job was cancelled", retryable: false },
  usage: { gpu_seconds: 0, units: 0 },
  user_id: uid,
  file_uid: fileUid,
  job_id: jobId,
  attempt: 1,
  completed_at: FieldValue.serverTimestamp(),
  updated_at: FieldValue.serverTimestamp(),
});

// ---- the same, stored -------------------------------------------------------------------------------------------

/** The wallets of one database, at one price. `freeCredits` are what a new wallet begins with. */
export class Wallets {
  constructor({ database, creditsPer1000Units: per1000, freeCredits = 0 }) {
    this.firestore = getFirestore(database);
    this.per1000 = per1000;
    this.freeCredits = freeCredits;
    this.turns = new Map(); // uid -> the transaction that was asked for last
  }

  wallet(uid) {
    return this.firestore.collection("wallets").doc(uid);
  }

  /** One transaction on a wallet. Those of one instance take turns, so that only instances compete for it. */
  async run(uid, work) {
    const before = this.turns.get(uid);
    const turn = Promise.allSettled([before]).then(() => this.firestore.runTransaction(work, { maxAttempts: ATTEMPTS }));
    this.turns.set(uid, turn);
    try {
      return await turn;
    } finally {
      if (this.turns.get(uid) === turn) this.turns.delete(uid);
    }
  }

  /**
   * Credits for a user, once for each `id`, such as a purchase's: shops tell of one more than once.
   * @returns whether they were granted now.
   */
  async grant(uid, credits, reason, id) {
    if (!Number.isSafeInteger(credits) || credits <= 0) throw new TypeError("credits must be a whole number above 0");
    const entry = this.wallet(uid).collection("ledger").doc(`grant.${encodeURIComponent(id)}`);
    return await this.run(uid, async (transaction) => {
      const [found, granted] = await transaction.getAll(this.wallet(uid), entry);
      if (granted.exists) return false;
      const wallet = this.opened(transaction, uid, found);
      transaction.set(entry, { kind: "grant", credits, reason, at: FieldValue.serverTimestamp() });
      this.write(transaction, uid, { ...wallet, credits: wallet.credits + credits, granted: wallet.granted + credits });
      return true;
    });
  }

  /** A user's wallet, which is opened where there is none. */
  async open(uid) {
    return await this.run(uid, async (transaction) => {
      const found = await transaction.get(this.wallet(uid));
      const wallet = this.opened(transaction, uid, found);
      if (!found.exists) this.write(transaction, uid, wallet);
      return wallet;
    });
  }

  /** Holds credits for a job that is about to be submitted; the answer is that of `asked`. `call` is new for each call. */
  async hold(uid, fileUid, { hash, credits, call, ttlMs, now = Date.now() }) {
    return await this.run(uid, async (transaction) => {
      const read = await this.read(transaction, uid, fileUid);
      const wallet = this.opened(transaction, uid, read.found);
      // The document may say more than its trigger has told yet.
      const news = told({ ...read, wallet, facts: [] }, this.per1000);
      const state = { ...read, wallet, ...news };
      const answer = asked(state, { fileUid, hash, credits, call, now, ttlMs });
      const after = { ...state, ...(answer.wallet && { wallet: answer.wallet }), ...(answer.hold && { hold: answer.hold }) };
      if (!read.found.exists || after.wallet !== wallet) this.write(transaction, uid, after.wallet);
      if (after.hold && after.hold !== read.hold) this.writeHold(transaction, uid, after.hold, { isNew: answer.is === "new" });
      if (news) this.writeEntries(transaction, uid, news.entries);
      return { ...answer, credits: after.wallet.credits };
    });
  }

  /** RunPod took the job of this call. */
  async accepted(uid, fileUid, { call, jobId }) {
    await this.note(uid, fileUid, call, { job_id: jobId });
  }

  /** RunPod's answer to this call is not known: what is held stays so, until the document or `sweep` tells. */
  async unclear(uid, fileUid, { call }) {
    await this.note(uid, fileUid, call, { unclear: true });
  }

  /** What became of a call, on its hold alone: other jobs of the wallet need not wait for it. */
  async note(uid, fileUid, call, fields) {
    await this.firestore.runTransaction(async (transaction) => {
      const hold = (await transaction.get(this.holdOf(uid, fileUid))).data();
      if (hold?.state !== "held" || hold.call?.id !== call) return;
      this.writeHold(transaction, uid, { ...hold, call: null, ...fields });
    });
  }

  /** RunPod took no job of this call. */
  async refused(uid, fileUid, { call }) {
    await this.change(uid, fileUid, (read) => refused(read, call));
  }

  /**
   * The job that a withdrawal at `time` takes back. Null where there is none, where it was asked for later than that, and where
   * an earlier call may have been taken as well: that one's job ends by what the document says.
   */
  async withdrawn(uid, fileUid, time) {
    const [held, stands] = await this.firestore.getAll(this.holdOf(uid, fileUid), this.documentOf(uid, fileUid));
    const hold = held.data();
    if (hold?.state !== "held" || hold.unclear || hold.created_at.toMillis() > Date.parse(time)) return null;
    return stands.exists && !isStopped(stands.data()) ? null : hold.job_id;
  }

  /** RunPod has taken a job back. No worker ends its order slip any more, so it ends here, as a worker would have ended it. */
  async dropped(uid, fileUid, { jobId, now = Date.now() }) {
    await this.change(uid, fileUid, (read, transaction) => {
      const after = told(read, this.per1000) ?? dropped(read, jobId, now);
      if (after?.waits) transaction.update(this.documentOf(uid, fileUid), cancelled(uid, fileUid, jobId));
      return after;
    });
  }

  /** A document was written: it said `before`, then `after` (undefined: it is not there). */
  async settle(uid, fileUid, { before, after }) {
    await this.change(uid, fileUid, (read) => told(read, this.per1000), [before, after]);
  }

  /** A hold that is due: settled by its document, given back, or due again later. */
  async expire(uid, fileUid, now) {
    await this.change(uid, fileUid, (read, transaction) => {
      // Its user is gone, and their wallet with them.
      if (!read.wallet && read.hold) transaction.delete(this.holdOf(uid, fileUid));
      return read.wallet && (told(read, this.per1000) ?? overdue(read, now));
    });
  }

  /** Settles all holds that are due, and returns how many could not be. */
  async sweep({ now = Date.now(), page = 200 } = {}) {
    const due = this.firestore
      .collectionGroup("holds")
      .where("expires_at", "<=", Timestamp.fromMillis(now))
      .orderBy("expires_at");
    let failed = 0;
    for (let last; ; ) {
      const { docs } = await (last ? due.startAfter(last) : due).limit(page).get();
      const ended = await Promise.allSettled(
        docs.map(({ id, ref }) => this.expire(ref.parent.parent.id, id, now)),
      );
      failed += ended.filter(({ status }) => status === "rejected").length;
      if (docs.length < page) return failed;
      last = docs.at(-1);
    }
  }

  // -- reading and writing

  documentOf(uid, fileUid) {
    return this.firestore.doc(`generations/${uid}/files/${fileUid}`);
  }

  holdOf(uid, fileUid) {
    return this.wallet(uid).collection("holds").doc(fileUid);
  }

  async read(transaction, uid, fileUid, facts = []) {
    const document = this.documentOf(uid, fileUid);
    const ledger = (document) => this.wallet(uid).collection("ledger").doc(entryId(fileUid, document));
    const entries = facts.filter(isDelivered).map(ledger);
    const [found, held, stands, ...known] = await transaction.getAll(
      this.wallet(uid),
      this.holdOf(uid, fileUid),
      document,
      ...entries,
    );
    const [hold, current] = [held.data(), stands.data()];
    // Most often it is what was told, and its entry is read already.
    if (hold && isDelivered(current) && entries.every(({ id }) => id !== entryId(fileUid, current)))
      known.push(await transaction.get(ledger(current)));
    const written = new Set(known.filter(({ exists }) => exists).map(({ id }) => id));
    return { found, wallet: found.data(), hold, current, facts, written };
  }

  async change(uid, fileUid, decide, facts = []) {
    await this.run(uid, async (transaction) => {
      const read = await this.read(transaction, uid, fileUid, facts);
      const after = decide(read, transaction);
      if (!after) return;
      if (after.wallet !== read.wallet) this.write(transaction, uid, after.wallet);
      this.writeHold(transaction, uid, after.hold);
      this.writeEntries(transaction, uid, after.entries ?? {});
    });
  }

  /** The wallet that was found, or a new one, whose free credits stand in the ledger. */
  opened(transaction, uid, found) {
    if (found.exists) return found.data();
    if (this.freeCredits === 0) return EMPTY;
    const entry = this.wallet(uid).collection("ledger").doc("free");
    transaction.set(entry, { kind: "grant", credits: this.freeCredits, reason: "free", at: FieldValue.serverTimestamp() });
    return { ...EMPTY, credits: this.freeCredits, granted: this.freeCredits };
  }

  write(transaction, uid, { credits, held, spent, granted }) {
    const updated_at = FieldValue.serverTimestamp();
    transaction.set(this.wallet(uid), { credits, held, spent, granted, updated_at });
  }

  writeHold(transaction, uid, hold, { isNew = false } = {}) {
    const { expires_at, delete_at: _, ...fields } = hold;
    transaction.set(this.holdOf(uid, hold.file_uid), {
      ...fields,
      // Only what is held is due, and only what is settled is deleted some day, by a policy on this field.
      ...(hold.state === "held" ? { expires_at } : { delete_at: Timestamp.fromMillis(Date.now() + KEPT_MS) }),
      ...(isNew && { created_at: FieldValue.serverTimestamp() }),
      updated_at: FieldValue.serverTimestamp(),
    });
  }

  writeEntries(transaction, uid, entries) {
    for (const [id, entry] of Object.entries(entries))
      transaction.set(this.wallet(uid).collection("ledger").doc(id), {
        kind: "payment",
        ...entry,
        at: FieldValue.serverTimestamp(),
      });
  }
}

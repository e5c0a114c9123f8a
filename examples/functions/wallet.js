// Keeps the users' credits: held when a job is submitted, taken when its document is completed, returned when it failed or
// never came. Each completion is paid once, however often, late or out of order its triggers come. Knows no RunPod.
//
//   wallets/{uid}                    credits, held, spent, granted: credits + held + spent = granted, and none is negative
//   wallets/{uid}/holds/{fileUid}    the hold of one generation, or how it was settled
//   wallets/{uid}/ledger/{id}        every grant and every payment; its sum is credits + held
//
// A wallet changes in transactions that also read the hold and the generation's document. Their decisions are pure functions:
// `asked`, `told`, `overdue`. A hold is one round of a fileUid: a failed generation may be requested again, in a new round.

import { FieldValue, getFirestore, Timestamp } from "firebase-admin/firestore";

const CALL_MS = 60_000; // the time limit of a call of `generate`
const LATE_MS = 5 * 60_000; // how much later than its job a document may be written
const KEPT_MS = 30 * 24 * 3_600_000; // settled holds; a result on the worker's volume arrives within two days
const ATTEMPTS = 15; // per transaction: many jobs of one wallet may end at once

const EMPTY = { credits: 0, held: 0, spent: 0, granted: 0 };

// ---- what a document says ---------------------------------------------------------------------------------------

/** A key of the document's end; null while it has none. (A job that failed to store its result may be completed later.) */
const ending = (document) =>
  hasEnded(document) ? `${document.status} ${document.attempt} ${document.job_id}` : null;

export const hasEnded = (document) => document?.status === "completed" || document?.status === "failed";

/** Whether a change of a document concerns a wallet: a new end, or a result that is gone. */
export const isEnd = (before, after) => (hasEnded(before) || hasEnded(after)) && ending(before) !== ending(after);

/** Whether the app can open the result. An inline one, without a file in the bucket, is requested again. */
export const isDelivered = (document) =>
  document?.status === "completed" && document.generation_data?.storage === "firebase";

/** Whether this is an order slip that was cancelled before a worker claimed the job. */
const isStopped = (document) => document?.status === "queued" && document.cancel_requested === true;

/** Whether a change of a document withdraws its job: it was cancelled in the queue, or deleted. */
export const isWithdrawal = (before, after) => (after ? isStopped(after) && !isStopped(before) : Boolean(before));

const isAlive = (document, now) => document?.status === "processing" && document.expires_at?.toMillis() > now;

/** The price of `units`, rounded up. */
export const creditsOf = (units, per1000) => Math.ceil((units * per1000) / 1000);

// ---- the rules: pure --------------------------------------------------------------------------------------------

/** Returns the whole hold to the credits. */
const givenBack = (wallet, hold) => ({
  wallet: { ...wallet, credits: wallet.credits + hold.credits, held: wallet.held - hold.credits },
  hold: { ...hold, state: "returned" },
});

/**
 * Pays a delivered document from its hold, and never more than that. If the hold was returned before, because the job was
 * thought lost or had failed, it is paid from the credits, as far as they suffice.
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

/** Whether a document's end is news to a hold, and not the one that existed when the hold was made. */
const isNews = (hold, document) => Boolean(hold) && ending(document) !== null && ending(document) !== hold.after;

/**
 * Settles a hold by its documents: `facts` are those that a trigger reported, `current` is the present one, if any.
 * A completion is final; a failure only counts while it is the present document.
 * @returns the new wallet and hold, and the ledger entries by id; null if nothing changes.
 */
export function told({ wallet, hold, current, facts, written }, per1000) {
  if (!wallet || !hold) return null; // a job from before wallets existed, or of a deleted user
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

/** The ledger id of one completion of one job, so that it cannot be paid twice. */
const entryId = (fileUid, { job_id, attempt }) => `${fileUid}.${attempt}.${encodeURIComponent(job_id)}`;

/**
 * Decides on a request for a generation. A repeated one, with the same input, costs nothing again: its job goes on, or its
 * result exists. (A second job would make a second picture as soon as the user deleted the first.) An id belongs to one input
 * for good: an earlier job that was thought lost may still come, and is paid at the price of its hold.
 * `credits` is null if the price is unknown, which only a request with a hold may have.
 * @returns `{is: "new", wallet, hold}` and `{is: "again", hold}`: submit; `{is: "known", jobId}`: a job exists;
 *   `{is: "busy"}`: another call is submitting it; `{is: "other"}`: the id belongs to another input; `{is: "unpriced"}`;
 *   `{is: "poor"}`.
 */
export function asked({ wallet, hold, current }, { fileUid, hash, credits, call, now, ttlMs }) {
  if (hold && hold.request_hash !== hash) return { is: "other" };
  if (hold?.state === "taken" && isDelivered(current)) return { is: "known", jobId: current.job_id };
  if (hold?.state === "held") {
    if (hold.job_id) return { is: "known", jobId: hold.job_id };
    if (hold.call && hold.call.until > now) return { is: "busy" };
    // The result of the last call is unknown: its job may still come.
    // The lifetime of this call's job, and of its hold, begins now.
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

/** Returns the hold of a call that RunPod refused, unless an earlier call may have submitted a job. */
function refused({ wallet, hold }, call) {
  if (hold?.state !== "held" || hold.call?.id !== call) return null;
  if (hold.unclear) return { wallet, hold: { ...hold, call: null } };
  return givenBack(wallet, { ...hold, call: null });
}

/**
 * Returns the hold of a job that RunPod has cancelled, unless a worker has claimed it meanwhile and ends it. `waits`: its
 * order slip still exists.
 */
function dropped({ wallet, hold, current }, jobId, now) {
  if (!wallet || hold?.state !== "held" || hold.job_id !== jobId || isAlive(current, now)) return null;
  return { ...givenBack(wallet, hold), waits: current?.status === "queued" };
}

/** Returns a hold whose job RunPod has dropped by now, unless a worker still holds its lease; the hold is then due later. */
export function overdue({ wallet, hold, current }, now) {
  if (hold?.state !== "held" || hold.expires_at.toMillis() > now) return null;
  if (!isAlive(current, now)) return givenBack(wallet, hold);
  return { wallet, hold: { ...hold, expires_at: Timestamp.fromMillis(current.expires_at.toMillis() + LATE_MS) } };
}

/** The fields with which a worker ends the slip of a job that was cancelled before it began (docs/api.md, "The document"). */
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

// ---- the same, in Firestore -------------------------------------------------------------------------------------

/** The wallets of one database, at one price. A new wallet begins with `freeCredits`. */
export class Wallets {
  constructor({ database, creditsPer1000Units: per1000, freeCredits = 0 }) {
    this.firestore = getFirestore(database);
    this.per1000 = per1000;
    this.freeCredits = freeCredits;
    this.turns = new Map(); // uid -> its last transaction
  }

  wallet(uid) {
    return this.firestore.collection("wallets").doc(uid);
  }

  /** Runs a transaction on a wallet. Those of one instance take turns, so that only instances compete. */
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
   * Grants credits to a user, once per `id`, such as a purchase's: shops report a purchase more than once.
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

  /** Returns a user's wallet, and creates a missing one. */
  async open(uid) {
    return await this.run(uid, async (transaction) => {
      const found = await transaction.get(this.wallet(uid));
      const wallet = this.opened(transaction, uid, found);
      if (!found.exists) this.write(transaction, uid, wallet);
      return wallet;
    });
  }

  /** Holds credits for a job that is about to be submitted; returns as `asked` does. `call` is unique to each call. */
  async hold(uid, fileUid, { hash, credits, call, ttlMs, now = Date.now() }) {
    return await this.run(uid, async (transaction) => {
      const read = await this.read(transaction, uid, fileUid);
      const wallet = this.opened(transaction, uid, read.found);
      // The document may be ahead of its triggers.
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

  /**
   * Notes that RunPod took the job of this call. Returns whether it was withdrawn before: its trigger has found no job to
   * cancel. `slip`: the app has created the document, so a missing one was deleted.
   */
  async accepted(uid, fileUid, { call, jobId, slip = false }) {
    const { hold, current } = await this.note(uid, fileUid, call, { job_id: jobId });
    // An earlier call may have submitted another job: that one ends by its document.
    const isOurs = hold?.state === "held" && hold.call?.id === call && !hold.unclear;
    return isOurs && (isStopped(current) || (slip && !current));
  }

  /** Notes that RunPod's response to this call is unknown: the hold stays until the document or `sweep` settles it. */
  async unclear(uid, fileUid, { call }) {
    await this.note(uid, fileUid, call, { unclear: true });
  }

  /** Notes the result of a call on its hold alone, so that other jobs of the wallet need not wait. */
  async note(uid, fileUid, call, fields) {
    return await this.firestore.runTransaction(async (transaction) => {
      const [held, stands] = await transaction.getAll(this.holdOf(uid, fileUid), this.documentOf(uid, fileUid));
      const [hold, current] = [held.data(), stands.data()];
      if (hold?.state === "held" && hold.call?.id === call)
        this.writeHold(transaction, uid, { ...hold, call: null, ...fields });
      return { hold, current };
    });
  }

  /** Notes that RunPod refused this call. */
  async refused(uid, fileUid, { call }) {
    await this.change(uid, fileUid, (read) => refused(read, call));
  }

  /**
   * The job to cancel for a withdrawal at `time`. Null if there is none, if it was requested later, or if an earlier call may
   * have submitted another one: that job ends by its document.
   */
  async withdrawn(uid, fileUid, time) {
    const [held, stands] = await this.firestore.getAll(this.holdOf(uid, fileUid), this.documentOf(uid, fileUid));
    const hold = held.data();
    if (hold?.state !== "held" || hold.unclear || hold.created_at.toMillis() > Date.parse(time)) return null;
    return stands.exists && !isStopped(stands.data()) ? null : hold.job_id;
  }

  /** Settles a job that RunPod has cancelled. No worker will end its order slip, so this ends it as a worker would. */
  async dropped(uid, fileUid, { jobId, now = Date.now() }) {
    await this.change(uid, fileUid, (read, transaction) => {
      const after = told(read, this.per1000) ?? dropped(read, jobId, now);
      if (after?.waits) transaction.update(this.documentOf(uid, fileUid), cancelled(uid, fileUid, jobId));
      return after;
    });
  }

  /** Settles a hold after a write of its document, from `before` to `after` (undefined: no document). */
  async settle(uid, fileUid, { before, after }) {
    await this.change(uid, fileUid, (read) => told(read, this.per1000), [before, after]);
  }

  /** Settles a hold that is due, by its document or by returning it, or postpones it. */
  async expire(uid, fileUid, now) {
    await this.change(uid, fileUid, (read, transaction) => {
      // The user was deleted, and the wallet with them.
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
    // Usually the trigger reported this very document, and its entry is read already.
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

  /** The wallet that was found, or a new one, with its free credits in the ledger. */
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
      // Only a held one is due, and only a settled one is deleted some day, by a policy on `delete_at`.
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

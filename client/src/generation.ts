// Follows one job from its order to its end: when to call the backend, what the document means, when a worker is lost.
//
// Three rules. Only the server ends a job, by its document or by a fresh read of one that fell silent; the phone's
// clock never does, nor does a missing network. The document tells whether a job was submitted: an error of the call
// may mean that only the response was lost. A repeated call always sends the same request under the same `fileUid`,
// which the worker generates once.

import { TICK_SECONDS, type AwakeClock } from "./awake.js";
import type { Backend, Seen } from "./backend.js";
import { fromFirebase, GenerationError, isRefusal, signedOut } from "./errors.js";
import type { InFlight, Order } from "./memory.js";
import type { GenerationData, GenerationDocument, GenerationProgress, GenerationStage, Timestamp } from "./wire.js";

export type Stage = GenerationStage | "completed" | "failed";

export interface GenerationState {
  stage: Stage;
  /** Progress of the whole job, 0 to 100. */
  percent?: number;
  step?: number;
  total_steps?: number;
  eta_seconds?: number;
  /** A data URI, if the request has `preview: true`. */
  preview?: string;
  /** Whether there is no network: the state is then the last known one. */
  offline: boolean;
}

export interface GenerationHandle {
  readonly fileUid: string;
  /** Rejects with a `GenerationError`. */
  readonly result: Promise<GenerationData>;
  /** Cancels the job, whether it waits or runs. Resolves once the server knows. After `stop()`, `resume` it first. */
  cancel(): Promise<void>;
  /** Stops watching. The job goes on, and a request that is still on its way is sent. `resume` watches it again. */
  stop(): void;
}

const LEASE_MARGIN_SECONDS = 10; // after `expires_at`, by the server's time
const SILENCE_SECONDS = 100; // for a document without a lease
const ANSWER_SECONDS = 90; // for the callable; Firebase's limit is 70 s
const LOOK_SECONDS = 60; // after which another read of the server may begin
const CATCH_UP_SECONDS = 90; // the time that a listener may need after a sleep
const OFFLINE_TICKS = 2; // a new listener may see only the cache for a moment
const RELISTEN_SECONDS = 10;
const MOST_ASKS = 4;
/** How long to wait for a sign of the job in its document before each repeated call. */
const SECONDS_TO_ASK_AGAIN = [20, 60, 180];
const SECONDS_AFTER_A_DEADLINE = 120; // the call most likely succeeded, only late

const STAGES: readonly string[] = ["queued", "loading", "generating", "uploading"];

export interface Surroundings {
  backend: Backend;
  clock: AwakeClock;
  inFlight: InFlight;
  /** The signed-in user. */
  uid: () => string | null | undefined;
  /** Whether the app is generating under this `fileUid` now; of an ended `Generation`: again. */
  isBegun: (uid: string, fileUid: string) => boolean;
  /** How long a job may wait for a worker, in seconds while the app is awake. */
  queueSeconds: number;
}

export interface Plan {
  /** What to call the backend with, unless the job is known to be submitted. Without it the job is only watched. */
  order?: Order;
  /** Whether this is a new request: a `failed` document then belongs to an earlier attempt. */
  anew: boolean;
}

interface Watcher {
  onChange: (state: GenerationState) => void;
  stopped: (error: GenerationError) => void;
}

/** What is remembered of a job that is only watched here, once it is cancelled. */
const WATCHED: Order = { input: {}, jobId: "", slip: true };

export class Generation {
  /** Resolves when this job is closed: its listener and timer have ended. */
  readonly ended: Promise<void>;

  private readonly outcome: Promise<GenerationData>;
  private resolve!: (data: GenerationData) => void;
  private reject!: (error: GenerationError) => void;
  private end!: () => void;
  private settled = false;
  private isKnownToEnd = false; // if false when settled, only the watching ended: the job may go on
  private readonly watchers = new Set<Watcher>();
  private unlisten: () => void = () => undefined;
  private untick: () => void = () => undefined;
  private plan: Plan | undefined;
  private remembered = WATCHED;

  // The document as last received from the server.
  private known = false;
  private fields: GenerationDocument | undefined;
  private changedAt: number;
  private cacheTicks = 0;
  private fromCache = false;
  private looking: { since: number; look: Promise<boolean> } | undefined;
  private disputed = false;
  private turns = 0; // counts listener updates and the slip; a read that began before the newest one is stale
  private overSince: number | undefined;
  private leftBehind: string | undefined;
  private relistenAt = Number.POSITIVE_INFINITY;

  // The order.
  private slip: "none" | "pending" | "made" | "refused" = "none";
  private overlaid = false;
  private readonly jobs = new Set<string>();
  private asks = 0;
  private asksBefore = 0;
  private askedAt: number | undefined;
  private askAgainAt = Number.POSITIVE_INFINITY;
  private unclear: GenerationError | undefined;
  private answered = false;
  private earlier: string | undefined;
  private queuedSeconds = 0;

  private wish: "none" | "unsent" | "sending" | "sent" = "none";
  private readonly wished: Promise<void>;
  private wishIsKnown!: () => void;
  private state: GenerationState = { stage: "queued", offline: false };
  private told = JSON.stringify(this.state);

  constructor(
    private readonly around: Surroundings,
    private readonly uid: string,
    private readonly fileUid: string,
  ) {
    this.changedAt = around.clock.seconds;
    this.outcome = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
    this.ended = new Promise((resolve) => {
      this.end = resolve;
    });
    this.wished = new Promise((resolve) => {
      this.wishIsKnown = resolve;
    });
  }

  get isOver(): boolean {
    return this.settled;
  }

  /** Stop at once for all watchers, so that nothing is requested in the name of a user who is gone. */
  stop(): void {
    for (const watcher of [...this.watchers]) this.leave(watcher);
    this.close(() => undefined);
  }

  /** Add a watcher and return its handle. The listener ends when the last watcher stops. */
  watch(onChange: (state: GenerationState) => void = () => undefined): GenerationHandle {
    let stopped!: Watcher["stopped"];
    const result = new Promise<GenerationData>((resolve, reject) => {
      stopped = reject;
      this.outcome.then(resolve, reject);
    });
    result.catch(() => undefined); // so that a result that nobody awaits is no unhandled rejection
    const watcher = { onChange, stopped };
    this.watchers.add(watcher);
    show(watcher, this.state);
    return { fileUid: this.fileUid, result, cancel: () => this.cancel(), stop: () => this.leave(watcher) };
  }

  private leave(watcher: Watcher): void {
    if (!this.watchers.delete(watcher)) return;
    watcher.stopped(stopped());
    this.endUnwatched();
  }

  /** Close once nobody watches, but not before a pending request or cancellation has reached the server. */
  private endUnwatched(): void {
    if (this.watchers.size === 0 && !this.isOnItsWay()) this.close(() => undefined);
  }

  private isOnItsWay(): boolean {
    if (this.wish === "unsent" || this.wish === "sending") return true;
    if (!this.plan?.order || this.answered) return false;
    if (this.asks > 0) return this.askedAt !== undefined || (Number.isFinite(this.askAgainAt) && !this.isRunning());
    if (this.slip === "refused") return !this.known || this.looking !== undefined;
    return this.slip === "none" || this.slip === "pending";
  }

  /** Remember the order, write its slip, listen, and call the backend once the server has the slip. */
  async start(plan: Plan | Promise<Plan>): Promise<void> {
    this.untick = this.around.clock.listen((slept) => this.tick(slept));
    this.plan = "then" in plan ? await plan : plan;
    if (this.settled) return; // stopped, and perhaps forgotten, while the memory was read
    const { order, anew } = this.plan;
    if (order) this.remembered = order;
    if (order && !anew) this.asksBefore = order.asks ?? 0;
    if (order?.cancelled === true && this.wish === "none") this.wish = "unsent"; // before the app was closed
    if (order?.jobId !== undefined) {
      this.jobs.add(order.jobId);
      this.answered = true;
    }
    if (this.answered || !order) {
      if (this.wish !== "none") void this.remember();
    } else {
      await this.remember();
      // One of an earlier session may be a job that another screen has asked for: the document decides.
      if (this.wish !== "none" && this.asksBefore === 0 && order.cancelled !== true) {
        this.fail(cancelled());
        void this.withdraw();
      }
      if (this.settled) return;
      // A slip of an earlier session that is gone was deleted, and another one would have the job made again.
      if (this.asksBefore > 0 && order.slip === true) this.goByDocument();
      else this.writeSlip();
    }
    this.listen();
  }

  private async cancel(): Promise<void> {
    if (this.isKnownToEnd) return;
    if (this.settled) throw stopped();
    if (this.wish === "none") this.wish = "unsent";
    const before = this.slip === "none" || this.slip === "pending";
    if (this.plan?.order && before && !this.answered && this.asks + this.asksBefore === 0) {
      this.fail(cancelled()); // the backend was not called yet; `writeSlip` removes the slip
      return;
    }
    if (this.plan) {
      void this.remember(); // the app may be closed before the server knows
      await this.sendWish();
    }
    await this.wished;
  }

  private remember(order = this.remembered): Promise<void> {
    this.remembered = order;
    const { inFlight } = this.around;
    return inFlight.put(this.uid, this.fileUid, this.wish === "none" ? order : { ...order, cancelled: true });
  }

  // --- the slip

  private writeSlip(): void {
    this.slip = "pending";
    this.around.backend.order(this.uid, this.fileUid).then(
      () => {
        this.slip = "made";
        this.turns += 1;
        if (this.wish === "none") return this.proceed();
        this.fail(cancelled());
        if (!this.isBegunAgain()) void this.removeDocument();
      },
      () => {
        // A document exists already, or the rules allow no slips.
        this.overlaid = true;
        if (!this.settled) this.goByDocument();
        else if (this.wish !== "none") void this.withdraw();
      },
    );
  }

  /** Go on without a slip of this attempt: the server's document decides. */
  private goByDocument(): void {
    this.slip = "refused";
    void this.look().then(() => this.proceed());
  }

  // --- asking

  private proceed(): void {
    this.consider();
    this.endUnwatched();
  }

  /** Call the backend if the document shows that this can have an effect. */
  private consider(): void {
    if (this.settled || !this.plan?.order || this.answered || this.asks > 0) return;
    const status = this.fields?.status;
    if (this.wish !== "none") {
      const isNothing = this.known && (status === undefined || status === "failed");
      if (this.slip === "refused" && this.asksBefore === 0 && isNothing) this.fail(cancelled()); // never submitted
      return;
    }
    if (this.slip === "made") return this.ask();
    if (this.slip !== "refused" || !this.known) return;
    if (status === "completed") return; // `observe` reports it
    if (status === "processing" && !this.leaseIsOver()) return; // a worker holds the lease
    if (status === "failed" && !this.plan?.anew) return;
    if (status === "queued" && this.fields?.cancel_requested === true && this.plan?.anew) return this.replaceSlip();
    this.ask();
  }

  /** Replace the cancelled slip of an earlier attempt, which would end this one as well. */
  private replaceSlip(): void {
    this.slip = "pending";
    this.fields = undefined;
    void this.removeDocument().then(() => this.settled || this.writeSlip());
  }

  private ask(): void {
    const order = this.plan?.order;
    if (!order || this.settled) return;
    // Signed out, and perhaps forgotten in another tab: then nothing is stored again.
    if (this.around.uid() !== this.uid) return this.close(() => this.reject(signedOut()));
    const { backend, clock } = this.around;
    this.asks += 1;
    this.askedAt = clock.seconds;
    this.askAgainAt = Number.POSITIVE_INFINITY;
    // Until the new job claims it, the document still shows the lost one.
    this.leftBehind = this.isRunning() ? version(this.fields) : undefined;
    // A job submitted with a slip ends if its user has deleted the document meanwhile.
    const slip = this.slip === "made" || this.fields !== undefined;
    const quote = order.quote === undefined ? {} : { quote: order.quote };
    const data = { fileUid: this.fileUid, input: order.input, slip, ...quote };
    const attempt = this.asks;
    const asked = { ...order, asks: this.asksBefore + attempt, slip };
    // Remembered before the call: an app that is closed now must not take the job for one that was never requested.
    const called = this.remember(asked).then(() => {
      // Another user may have signed in meanwhile, and the call would be made in their name.
      if (this.around.uid() !== this.uid && !this.settled) {
        void this.remember({ ...order, asks: asked.asks - 1 });
        this.close(() => this.reject(signedOut()));
      }
      if (this.settled) throw cancelled();
      return backend.call<{ jobId?: unknown } | null>("generate", data);
    });
    called.then(
      (answer) => {
        if (attempt === this.asks) this.askedAt = undefined;
        this.answered = true;
        this.askAgainAt = Number.POSITIVE_INFINITY;
        const jobId = typeof answer?.jobId === "string" ? answer.jobId : "";
        this.jobs.add(jobId);
        if (this.settled) return;
        // It is never requested again, so the prompt need not stay in the phone's memory.
        void this.remember({ input: {}, asks: this.asksBefore + this.asks, jobId, slip });
        if (this.known && this.fields?.status === "failed") this.failed(this.fields);
        this.endUnwatched();
      },
      (error: GenerationError) => {
        if (attempt === this.asks) this.askedAt = undefined;
        if (!this.settled && !this.answered) this.notAnswered(error);
        // Cancelled meanwhile: perhaps there is no job that would end the slip.
        else if (this.isKnownToEnd && this.isCancelled() && !this.answered) void this.withdraw();
        this.endUnwatched();
      },
    );
  }

  private notAnswered(error: GenerationError): void {
    // If an earlier call may have submitted the job, a refusal of this one does not end it.
    if (isRefusal(error) && this.unclear === undefined && this.asksBefore === 0 && !this.isRunning()) {
      // Without an earlier call a slip that is there already is this job's own, from before the app was closed.
      const isOurs = this.slip === "made" || (!this.plan?.anew && this.fields?.status === "queued");
      if (isOurs) void this.removeDocument();
      this.fail(error);
      return;
    }
    if (!isRefusal(error) || this.asksBefore > 0) this.unclear ??= error;
    if (this.asks >= MOST_ASKS) return;
    const patience = SECONDS_TO_ASK_AGAIN[this.asks - 1] ?? SECONDS_AFTER_A_DEADLINE;
    const least = error.code === "deadline-exceeded" ? SECONDS_AFTER_A_DEADLINE : 0;
    this.askAgainAt = this.around.clock.seconds + Math.max(patience, least);
  }

  private async askAgain(): Promise<void> {
    this.askAgainAt = this.around.clock.seconds + LOOK_SECONDS; // the next attempt, if this read fails
    if (!(await this.look()) || this.answered || this.wish !== "none" || this.isRunning()) return;
    this.ask();
  }

  // --- the document

  private listen(): void {
    if (this.settled) return;
    this.unlisten();
    this.relistenAt = Number.POSITIVE_INFINITY;
    const ended = (error: unknown): void => this.listenerEnded(fromFirebase(error));
    try {
      this.unlisten = this.around.backend.listen(this.uid, this.fileUid, (seen) => this.seen(seen), ended);
    } catch (error) {
      ended(error); // the SDK was shut down
    }
    if (this.settled) this.unlisten(); // a listener may be called before `listen` returns
  }

  private listenerEnded(error: GenerationError): void {
    if (this.settled) return;
    if (isRefusal(error) && error.code !== "resource-exhausted") {
      // The job may go on, so it stays in memory for a `resume` after the user has signed in again.
      this.close(() => this.reject(error));
      return;
    }
    this.relistenAt = this.around.clock.seconds + RELISTEN_SECONDS;
  }

  private seen({ fields, fromCache, pending }: Seen): void {
    if (this.settled) return;
    this.fromCache = fromCache;
    if (!fromCache) this.cacheTicks = 0;
    // This app's slip, not accepted yet or just refused, hides the server's document.
    if (pending && (this.slip === "pending" || this.overlaid)) return;
    if (!pending) this.overlaid = false;
    if (fromCache) {
      // A cached `completed` is trusted: only the worker can have written it.
      if (fields?.status === "completed") this.observe(fields);
      return;
    }
    if (fields !== undefined) {
      this.turns += 1;
      this.disputed = false;
    }
    this.observe(fields, { pending });
  }

  /** Act on the document. `sure`: read from the server; `pending`: contains writes that are not accepted yet. */
  private observe(fields: GenerationDocument | undefined, { sure = false, pending = false } = {}): void {
    if (this.settled) return;
    const changed = !this.known || version(fields) !== version(this.fields);
    const was = this.fields;
    this.known = true;
    if (changed) {
      this.changedAt = this.around.clock.seconds;
      for (const time of [fields?.created_at, fields?.updated_at]) this.around.clock.note(millis(time));
    }
    const order = this.plan?.order;
    const expected = was !== undefined || this.slip === "made" || !order || order.slip === true;
    if (fields === undefined && expected) return sure ? this.deleted() : this.dispute();
    if (changed) this.overSince = undefined;
    this.fields = fields;
    if (fields?.status === "completed") return this.succeed(fields.generation_data as GenerationData);
    if (fields?.status === "failed") return this.failed(fields);
    if (this.isStopped() && !pending) return this.stoppedElsewhere();
    if (this.isRunning()) this.queuedSeconds = 0;
    if (this.wish === "unsent" && fields !== undefined) void this.sendWish().catch(() => undefined);
    this.tell(this.isRunning() ? progressOf(fields) : { stage: "queued" });
    this.proceed();
  }

  /** Whether a cancelled slip ends this job. One of an earlier attempt does not: `replaceSlip` removes it. */
  private isStopped(): boolean {
    if (this.fields?.status !== "queued" || this.fields.cancel_requested !== true || this.wish !== "none") return false;
    return this.slip === "made" || !this.plan?.anew;
  }

  /** End a job that was cancelled on another device, or before this app was closed. */
  private stoppedElsewhere(): void {
    const goes = this.slipMustGo();
    this.fail(cancelled());
    if (goes) void this.removeDocument();
  }

  /**
   * Check with the server whether a document that the listener reports as missing was really deleted.
   *
   * If it still exists, that listener would not report its deletion: reads do, until the listener shows it again.
   */
  private dispute(): void {
    this.disputed = true;
    void this.look();
  }

  private deleted(): void {
    this.fail(this.wish === "none" ? new GenerationError("deleted", "This generation was deleted.", false) : cancelled());
  }

  private failed(fields: GenerationDocument): void {
    const failure = `${fields.job_id ?? ""}/${millis(fields.completed_at)}/${fields.attempt ?? ""}`;
    if (this.plan?.anew && this.slip !== "made") {
      // After a repeated request the document shows the end of the last attempt until the new job claims it.
      this.earlier ??= this.asks === 0 ? failure : undefined;
      const ours = this.answered && (this.jobs.has(fields.job_id ?? "") || this.jobs.has(""));
      if (failure === this.earlier && !ours) {
        this.tell({ stage: "queued" });
        return this.proceed();
      }
    }
    const { code, message, retryable } = fields.error ?? { code: "internal", message: "It failed.", retryable: false };
    // A job of a repeated call may still be queued; without the document it ends before it begins.
    if (code === "cancelled" && this.wish !== "none" && this.othersMayCome()) void this.removeDocument();
    this.fail(new GenerationError(code, message, retryable));
  }

  // --- silence

  private isRunning(): boolean {
    return this.fields?.status === "processing" && version(this.fields) !== this.leftBehind;
  }

  /** Whether the lease has expired, by the lower bound of the server's time that documents give. */
  private leaseIsOver(): boolean {
    const { clock } = this.around;
    const expires = millis(this.fields?.expires_at);
    if (Number.isFinite(expires) && Number.isFinite(clock.serverNow())) {
      return clock.serverNow() >= expires + 1000 * LEASE_MARGIN_SECONDS;
    }
    return clock.seconds - this.changedAt >= SILENCE_SECONDS;
  }

  private tick(slept: boolean): void {
    const { clock, queueSeconds } = this.around;
    if (this.fromCache) this.cacheTicks += 1;
    this.tell();
    if (clock.seconds >= this.relistenAt) this.listen();
    if (this.disputed) void this.look();
    if (this.askedAt !== undefined && clock.seconds - this.askedAt >= ANSWER_SECONDS) {
      this.askedAt = undefined;
      if (!this.answered) this.notAnswered(new GenerationError("deadline-exceeded", "The backend did not answer.", true));
      this.endUnwatched();
    }
    if (this.isRunning()) {
      if (this.leaseIsOver()) void this.lookForTheWorker();
      return;
    }
    if (clock.seconds >= this.askAgainAt) void this.askAgain();
    this.queuedSeconds = slept
      ? Math.min(this.queuedSeconds, queueSeconds - CATCH_UP_SECONDS)
      : this.queuedSeconds + (this.slip === "pending" || this.isOffline() ? 0 : TICK_SECONDS);
    if (this.queuedSeconds >= queueSeconds) void this.lookForAnyWorker();
  }

  private async lookForTheWorker(): Promise<void> {
    const { clock } = this.around;
    this.overSince ??= clock.seconds;
    if (this.looking && this.looking.since < this.overSince) return; // that read may predate the expiry
    const before = version(this.fields);
    if (!(await this.look()) || version(this.fields) !== before || !this.isRunning()) return;
    const mayAsk = this.plan?.anew === true && this.slip === "refused" && !this.answered && this.asks === 0;
    if (mayAsk && this.wish === "none") return this.ask();
    this.fail(new GenerationError("worker_lost", "The worker that made this was lost; ask again.", true));
  }

  private async lookForAnyWorker(): Promise<void> {
    if (!(await this.look()) || this.isRunning() || this.queuedSeconds < this.around.queueSeconds) return;
    // A job that still starts would have no reader; without its slip it ends at once.
    const mayGo = ({ status }: GenerationDocument): boolean => status === "queued" && !this.isBegunAgain();
    void this.around.backend.removeIf(this.uid, this.fileUid, mayGo).catch(() => undefined);
    const lost = new GenerationError("worker_lost", "No worker took this job in time; ask again.", true);
    this.fail(this.unclear ?? lost);
  }

  /** Read the document from the server and observe it. Returns whether that succeeded and the job is still open. */
  private look(): Promise<boolean> {
    const { backend, clock } = this.around;
    const { turns } = this;
    if (this.looking && clock.seconds - this.looking.since < LOOK_SECONDS) return this.looking.look;
    const look = backend.look(this.uid, this.fileUid).then(
      (fields) => {
        if (this.looking?.look === look) this.looking = undefined;
        if (this.settled || this.turns !== turns) return false;
        this.observe(fields, { sure: true });
        return !this.settled;
      },
      () => {
        if (this.looking?.look === look) this.looking = undefined;
        return false;
      },
    );
    this.looking = { since: clock.seconds, look };
    return look;
  }

  // --- cancelling

  private async sendWish(): Promise<void> {
    if (this.settled || this.wish !== "unsent" || this.slip === "pending") return;
    // A cancellation needs a document; one that existed already must be seen first.
    if (this.fields === undefined && this.slip !== "made" && (this.known || this.slip === "refused")) return;
    this.wish = "sending";
    // A `failed` document of an earlier attempt accepts no cancellation: deleting it ends the job requested since.
    const { backend } = this.around;
    const ended = this.fields?.status === "failed";
    try {
      if (ended) await backend.remove(this.uid, this.fileUid);
      else await backend.update(this.uid, this.fileUid, { cancel_requested: true });
    } catch (error) {
      this.wish = "unsent";
      await this.look(); // it may have ended meanwhile, and then accepts no cancellation
      if (this.settled) return;
      throw fromFirebase(error);
    }
    this.wish = "sent";
    this.wishIsKnown();
    if (this.settled || this.isRunning()) return this.endUnwatched();
    // The worker that claims it will end it before it begins.
    this.fail(cancelled());
    if (!ended && this.slipMustGo()) await this.removeDocument();
  }

  /** Whether a cancelled slip is deleted: after an unclear call perhaps there is no job that would end it. */
  private slipMustGo(): boolean {
    return this.unclear !== undefined || this.othersMayCome();
  }

  /** Whether the document may have several jobs: its cancellation ends only the first, its deletion ends all. */
  private othersMayCome(): boolean {
    return this.asksBefore + this.asks > 1 || (this.slip === "refused" && this.fields?.status === "queued");
  }

  private isCancelled(): boolean {
    return this.wish === "sent" || this.fields?.cancel_requested === true;
  }

  /** End on the server what was cancelled before it was known what is there: a slip is removed, a running job stops. */
  private async withdraw(): Promise<void> {
    const { backend } = this.around;
    try {
      const { status, cancel_requested } = (await backend.look(this.uid, this.fileUid)) ?? {};
      if (this.isBegunAgain()) return;
      // A cancellation that the server has taken stays in its document: one without it is of a later attempt.
      if (this.isCancelled() && cancel_requested !== true) return;
      if (status === "queued") await backend.remove(this.uid, this.fileUid);
      if (status === "processing") await backend.update(this.uid, this.fileUid, { cancel_requested: true });
    } catch {
      // The document stays, and ends by itself.
    }
  }

  /** Whether the app has asked for this generation again after this attempt ended: the document is then that attempt's. */
  private isBegunAgain(): boolean {
    return this.around.isBegun(this.uid, this.fileUid);
  }

  private async removeDocument(): Promise<void> {
    try {
      await this.around.backend.remove(this.uid, this.fileUid);
    } catch {
      // The document stays, and the job ends by itself.
    }
  }

  // --- the end

  private isOffline(): boolean {
    return this.fromCache && this.cacheTicks >= OFFLINE_TICKS;
  }

  private tell(news: Omit<GenerationState, "offline"> = this.state): void {
    const state: GenerationState = { ...news, offline: this.isOffline() };
    const text = JSON.stringify(state);
    if (text === this.told) return;
    this.told = text;
    this.state = state;
    for (const watcher of [...this.watchers]) show(watcher, state);
  }

  private succeed(data: GenerationData): void {
    this.close(() => {
      this.tell({ stage: "completed", percent: 100 });
      this.resolve(data);
    }, true);
  }

  private fail(error: GenerationError): void {
    this.close(() => {
      this.tell({ stage: "failed" });
      this.reject(error);
    }, true);
  }

  private close(settle: () => void, forget = false): void {
    if (this.settled) return;
    this.settled = true;
    this.isKnownToEnd = forget;
    this.untick();
    this.unlisten();
    this.fromCache = false;
    settle();
    this.wishIsKnown();
    if (forget) void this.around.inFlight.forget(this.uid, this.fileUid);
    this.end();
  }
}

function show({ onChange }: Watcher, state: GenerationState): void {
  try {
    onChange(state);
  } catch (error) {
    // A bug in the app's callback: logged, without ending the job.
    (globalThis as unknown as { console?: { error(error: unknown): void } }).console?.error(error);
  }
}

const stopped = (): GenerationError => new GenerationError("stopped", "The app stopped listening.", false);

const cancelled = (): GenerationError => new GenerationError("cancelled", "It was cancelled.", false);

const millis = (time: Timestamp | null | undefined): number => time?.toMillis?.() ?? Number.NaN;

/** A key of the fields that change while a worker is alive. */
function version(fields: GenerationDocument | undefined): string {
  if (fields === undefined) return "";
  return [fields.status, fields.job_id, fields.attempt, millis(fields.updated_at), millis(fields.expires_at)].join();
}

function progressOf(fields: GenerationDocument | undefined): Omit<GenerationState, "offline"> {
  const { stage = "loading", percent, step, total_steps, eta_seconds, preview } = (fields?.progress ?? {}) as Partial<GenerationProgress>;
  const known = { percent, step, total_steps, eta_seconds, preview };
  const given = Object.entries(known).filter(([, value]) => value !== undefined && value !== null);
  const shown = (STAGES.includes(stage) ? stage : "generating") as Stage;
  return { stage: shown, ...(Object.fromEntries(given) as Partial<GenerationState>) };
}

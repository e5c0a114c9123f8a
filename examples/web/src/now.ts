// Shows the jobs in flight: one card per job, from its order to its result, with a button to cancel it.

import type { GenerationData, GenerationHandle, GenerationState } from "@client";
import { over } from "./blur.js";
import type { Wanted } from "./compose.js";
import { byId, el, icon, say, toast } from "./dom.js";
import { auth, client } from "./firebase.js";
import { inWords, isCode, isKept, seconds, STAGES, TASKS } from "./words.js";

interface Told {
  prompt: string;
  shape: number;
  task: string;
}

const GOES_ON = "No connection. It goes on without you.";
const PERHAPS_SENT = "No connection. If it was sent already, it goes on without you.";

/** The prefix of the keys under which the page keeps a user's jobs in `localStorage`. */
const kept = (uid: string | undefined): string => `studio/${uid}/`;
const key = (fileUid: string): string => kept(auth.currentUser?.uid) + fileUid;

/** Keep what a resumed job's card shows. If the store is full or disabled, only those texts are lost, never a job. */
function remember(place: string, told: Told | null): void {
  try {
    if (told) localStorage.setItem(place, JSON.stringify(told));
    else localStorage.removeItem(place);
  } catch {
    // The card has the texts until the page is closed.
  }
}

function remembered(place: string): Partial<Told> {
  try {
    return JSON.parse(localStorage.getItem(place) ?? "{}") as Partial<Told>;
  } catch {
    return {};
  }
}

export class Now {
  private readonly list = byId("now-list");
  private readonly handles = new Set<GenerationHandle>();
  private readonly cards = new Map<string, Card>();

  /** `done`: a job has ended, and the history has changed. `open`: the user opens a result. `again`: the user retries. */
  constructor(
    private readonly done: (fileUid: string) => void,
    private readonly open: (fileUid: string) => void,
    private readonly again: (wanted: Wanted) => Promise<void>,
  ) {}

  begin(wanted: Wanted): void {
    this.list.querySelectorAll(".job.over").forEach((card) => card.remove());
    const told = { prompt: wanted.prompt, shape: wanted.shape, task: String(wanted.input.task_type) };
    const card = new Card(told);
    const quote = wanted.quote === undefined ? {} : { quote: wanted.quote };
    const handle = client.generate(wanted.input, { ...quote, onChange: (state) => card.show(state) });
    remember(key(handle.fileUid), told);
    this.follow(handle, card, () => this.again(wanted));
    card.element.scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  }

  /** Show the jobs that were in flight when the page was closed. */
  async resume(): Promise<void> {
    for (const fileUid of await client.inFlight()) this.resumeOne(fileUid, null);
  }

  private resumeOne(fileUid: string, again: (() => Promise<void>) | null): void {
    const card = new Card({ prompt: "", shape: 1, task: "text2img", ...remembered(key(fileUid)) });
    this.follow(client.resume(fileUid, { onChange: (state) => card.show(state) }), card, again);
  }

  /** Remove the card of a generation that was deleted. */
  remove(fileUid: string): void {
    this.cards.get(fileUid)?.onDismiss();
  }

  /** Clear the cards when the user changes; the jobs go on. */
  leave(): void {
    for (const handle of this.handles) handle.stop();
    this.handles.clear();
    this.cards.clear();
    this.list.replaceChildren();
    byId("now").hidden = true;
  }

  /** Remove all that this browser keeps of a deleted account. */
  async forget(uid: string): Promise<void> {
    await client.forget(uid);
    for (const name of Object.keys(localStorage)) if (name.startsWith(kept(uid))) localStorage.removeItem(name);
  }

  private follow(handle: GenerationHandle, card: Card, again: (() => Promise<void>) | null): void {
    const { fileUid } = handle;
    const place = key(fileUid);
    this.handles.add(handle);
    this.cards.set(fileUid, card);
    this.list.prepend(card.element);
    byId("now").hidden = false;
    card.onCancel = () => handle.cancel();
    card.onDismiss = () => {
      card.element.remove();
      if (this.cards.get(fileUid) === card) this.cards.delete(fileUid);
      byId("now").hidden = this.list.childElementCount === 0;
    };
    card.onOpen = () => this.open(fileUid);
    card.onAgain = again;
    handle.result
      .then(
        (data) => {
          remember(place, null);
          card.succeed(data);
          this.done(fileUid);
        },
        async (error: unknown) => {
          if (isCode(error, "stopped")) return card.element.remove();
          const goesOn = await this.goesOn(fileUid);
          if (!goesOn) remember(place, null);
          else card.onAgain = async () => (card.onDismiss(), this.resumeOne(fileUid, again));
          card.fail(error);
        },
      )
      .finally(() => this.handles.delete(handle));
  }

  /** Whether the job goes on although its document cannot be read for now: a retry would create a second job. */
  private async goesOn(fileUid: string): Promise<boolean> {
    return (await client.inFlight().catch((): string[] => [])).includes(fileUid);
  }
}

/** The card of one job. */
class Card {
  readonly element: HTMLElement;
  onCancel: () => Promise<void> = async () => undefined;
  onDismiss: () => void = () => undefined;
  onOpen: () => void = () => undefined;
  onAgain: (() => Promise<void>) | null = null;

  private readonly frame: HTMLElement;
  private readonly line = el("p", { class: "stage" }, STAGES["queued"]);
  private readonly bar = el("progress", { max: 100, "aria-label": "Progress" });
  private readonly actions: HTMLElement;
  private readonly name: string;
  private preview: HTMLImageElement | null = null;
  private announced = "";

  constructor({ prompt, shape, task }: Told) {
    this.name = prompt || (TASKS[task] ?? "Picture");
    this.frame = el("div", { class: "frame waiting" });
    this.frame.style.setProperty("--shape", String(shape));
    const cancel = el("button", { type: "button", class: "quiet", onclick: () => this.cancel() }, "Cancel");
    this.actions = el("div", { class: "actions" }, cancel);
    this.element = el(
      "li",
      { class: "job" },
      this.frame,
      el("div", { class: "job-text" }, el("p", { class: "job-name" }, this.name), this.line, this.bar, this.actions),
    );
  }

  show({ stage, percent, eta_seconds: left, preview, offline }: GenerationState): void {
    if (stage === "completed" || stage === "failed") return;
    const parts = [STAGES[stage] ?? stage];
    if (stage === "generating" && left != null) parts.push(`${seconds(left)} left`);
    this.line.textContent = offline ? (stage === "queued" ? PERHAPS_SENT : GOES_ON) : parts.join(" · ");
    if (percent == null || stage === "queued" || stage === "loading") this.bar.removeAttribute("value");
    else this.bar.value = percent;
    this.announce(stage, percent ?? 0);
    if (preview) {
      this.preview ??= el("img", { class: "preview", alt: "" });
      this.preview.src = preview;
      if (!this.preview.isConnected) this.frame.append(this.preview);
    }
  }

  succeed(data: GenerationData): void {
    this.over(STAGES["completed"]!);
    const file = data.files?.[0];
    const url = file?.thumbnail_url ?? file?.poster_url ?? file?.url;
    if (file && url && data.storage === "firebase") {
      this.frame.style.setProperty("--shape", String(file.width / file.height));
      this.frame.append(over(url, ""));
      this.actions.append(el("button", { type: "button", class: "main small", onclick: () => this.onOpen() }, "Open"));
      say(`Ready: ${this.name}`);
    } else {
      const text = inWords({ code: "storage_unavailable" }); // the result was inline, and the app cannot get it
      this.line.textContent = text;
      this.offerAgain();
      say(text);
    }
    this.actions.append(this.dismissal());
  }

  fail(error: unknown): void {
    const text = inWords(error);
    this.over(text);
    this.element.classList.add("failed");
    if (!isCode(error, "deleted", "forbidden", "invalid_input") && !isKept(error)) this.offerAgain();
    this.actions.append(this.dismissal());
    say(text);
  }

  private offerAgain(): void {
    if (!this.onAgain) return;
    const button = el("button", { type: "button", class: "main small", onclick: () => void again() }, "Try again");
    // The price is asked for first, which may take a while: a second press must not create a second job.
    const again = async (): Promise<void> => {
      if (button.ariaDisabled === "true") return;
      button.ariaDisabled = "true";
      await this.onAgain?.().catch((problem: unknown) => toast(inWords(problem)));
      button.ariaDisabled = null;
    };
    this.actions.append(button);
  }

  private over(text: string): void {
    const hadFocus = this.actions.contains(document.activeElement);
    this.line.textContent = text;
    this.bar.remove();
    this.actions.replaceChildren();
    this.frame.classList.remove("waiting");
    this.element.classList.add("over");
    if (hadFocus) queueMicrotask(() => this.actions.querySelector("button")?.focus());
  }

  private cancel(): void {
    const button = this.actions.querySelector("button")!;
    const before = this.line.textContent;
    this.line.textContent = "Stopping";
    button.disabled = true;
    this.onCancel().catch((error: unknown) => {
      button.disabled = false;
      if (this.line.textContent === "Stopping") this.line.textContent = before;
      toast(inWords(error));
    });
  }

  private dismissal(): HTMLElement {
    const label = `Put away: ${this.name}`;
    return el("button", { type: "button", class: "quiet round", "aria-label": label, onclick: () => this.onDismiss() }, icon("close"));
  }

  /** Announce each stage and the halfway point to screen readers, not every step. */
  private announce(stage: string, percent: number): void {
    const text = stage === "generating" && percent >= 50 ? "Half done" : (STAGES[stage] ?? stage);
    if (text === this.announced) return;
    this.announced = text;
    say(`${text}: ${this.name}`);
  }
}

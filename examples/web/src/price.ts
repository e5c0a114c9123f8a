// What a request costs: seen before the button is pressed, and signed by the backend, which then holds no more than that.

import { GenerationError, type GenerationInput, type Offer } from "@client";
import { byId } from "./dom.js";
import { client } from "./firebase.js";
import { isCode, plural, seconds } from "./words.js";

const REST_MS = 350; // how long a choice has to rest before a worker is asked
const GOOD_MS = 9 * 60_000; // a minute less than the backend's signature

export class Price {
  private readonly place = byId("price");
  private readonly left = byId("price-left");
  private readonly offers = new Map<string, { at: number; offer: Promise<Offer> }>();
  private timer: number | undefined;
  private turn = 0;
  private shown: number | null = null;
  private wallet: number | null = null;
  private isFree = false;

  /** Show what this would cost, once the choice has rested for a moment; nothing for nothing. */
  show(input: GenerationInput | null): void {
    const turn = this.begin();
    if (!input) return this.write(null);
    this.place.setAttribute("aria-busy", "true"); // a reader waits for what comes
    this.timer = window.setTimeout(() => {
      this.ask(input).then(
        (offer) => turn === this.turn && this.write(offer),
        () => turn === this.turn && this.write(null),
      );
    }, REST_MS);
  }

  /** The offer for what the form asks for, if it costs no more than the user has seen there; else it is shown, and this throws. */
  async agreed(input: GenerationInput): Promise<Offer | null> {
    const turn = this.begin();
    const seen = this.shown;
    try {
      const offer = await this.offer(input);
      if (turn === this.turn) this.write(offer);
      return atMost(offer, seen);
    } catch (error) {
      // What stood there may have been the price of something else.
      if (turn === this.turn && !isCode(error, "dearer")) this.write(null);
      throw error;
    }
  }

  /** What a worker asks for this, and the backend has signed. Throws what is wrong with the request. */
  async offer(input: GenerationInput): Promise<Offer | null> {
    try {
      return await this.ask(input);
    } catch (error) {
      // Where jobs cost nothing, an answer that cannot be had stops nobody.
      if (this.isFree && !isCode(error, "invalid-argument", "failed-precondition")) return null;
      throw error;
    }
  }

  /** A worker is asked anew for this one: what was signed is not good any more, whatever this machine's clock says. */
  forget(input: GenerationInput): void {
    this.offers.delete(JSON.stringify(input));
  }

  /** So many credits are left; null where jobs cost nothing. */
  has(credits: number | null): void {
    this.wallet = credits;
    this.weigh();
  }

  /** Somebody else signs in. */
  leave(): void {
    this.begin();
    this.offers.clear();
    this.write(null);
  }

  private begin(): number {
    clearTimeout(this.timer);
    return (this.turn += 1);
  }

  /** A worker is asked once for each choice, as long as its answer is good. */
  private ask(input: GenerationInput): Promise<Offer> {
    const key = JSON.stringify(input);
    const known = this.offers.get(key);
    if (known && Date.now() - known.at < GOOD_MS) return known.offer;
    const offer = client.quote(input);
    this.offers.set(key, { at: Date.now(), offer });
    offer.then(
      ({ credits }) => (this.isFree = credits === undefined),
      () => this.offers.get(key)?.offer === offer && this.offers.delete(key),
    );
    return offer;
  }

  private write(offer: Offer | null): void {
    this.place.removeAttribute("aria-busy");
    this.shown = offer?.credits ?? null;
    const time = offer?.estimated_seconds;
    const parts = [this.shown === null ? "" : plural(this.shown, "credit"), time == null ? "" : `about ${seconds(time)}`];
    this.place.textContent = parts.filter(Boolean).join(", ");
    this.weigh();
  }

  private weigh(): void {
    const { shown, wallet } = this;
    const short = shown !== null && wallet !== null && shown > wallet;
    this.left.textContent = shown === null || wallet === null ? "" : short ? `You have only ${wallet}.` : `${wallet} left`;
    this.left.classList.toggle("wrong", short);
  }
}

/** Throws `dearer`, with the offer as its details, where this costs more than the user has seen. */
export function atMost(offer: Offer | null, seen: number | null): Offer | null {
  if (!offer?.credits || offer.credits <= (seen ?? 0)) return offer;
  throw new GenerationError("dearer", `It takes ${plural(offer.credits, "credit")}. Press again if that is fine.`, true, offer);
}

// Shows the price of a request before the button is pressed. The backend signs it, and then holds no more than that.

import { GenerationError, type GenerationInput, type Offer } from "@client";
import { byId } from "./dom.js";
import { client } from "./firebase.js";
import { isCode, plural, seconds } from "./words.js";

const REST_MS = 350; // how long a choice must stay unchanged before a worker is asked
const GOOD_MS = 9 * 60_000; // a minute less than the backend's quote is valid

/** What was shown when a request was submitted: later the form, and with it the price, may be another one. */
export interface Seen {
  readonly credits: number | null;
  readonly turn: number;
}

export class Price {
  private readonly place = byId("price");
  private readonly left = byId("price-left");
  private readonly offers = new Map<string, { at: number; offer: Promise<Offer> }>();
  private timer: number | undefined;
  private turn = 0;
  private shown: number | null = null;
  private wallet: number | null = null;
  private isFree = false;

  /** Show the price of a request, once it has stayed unchanged for a moment; null shows none. */
  show(input: GenerationInput | null): void {
    const turn = this.begin();
    if (!input) return this.write(null);
    this.place.setAttribute("aria-busy", "true"); // screen readers wait for the price
    this.timer = window.setTimeout(() => {
      this.ask(input).then(
        (offer) => turn === this.turn && this.write(offer),
        () => turn === this.turn && this.write(null),
      );
    }, REST_MS);
  }

  get seen(): Seen {
    return { credits: this.shown, turn: this.turn };
  }

  /** The offer for the request, if it costs no more than what the user saw at its submission; else shows it and throws. */
  async agreed(input: GenerationInput, seen: Seen): Promise<Offer | null> {
    const turn = seen.turn === this.turn ? this.begin() : null; // null: the form has changed, and shows its own price
    try {
      const offer = await this.offer(input);
      if (turn === this.turn) this.write(offer);
      return atMost(offer, seen.credits);
    } catch (error) {
      // The price shown may belong to another request.
      if (turn === this.turn && !isCode(error, "dearer")) this.write(null);
      throw error;
    }
  }

  /** The price that a worker asks and the backend has signed. Throws if the request is not valid. */
  async offer(input: GenerationInput): Promise<Offer | null> {
    try {
      return await this.ask(input);
    } catch (error) {
      // If jobs cost nothing, a missing price does not stop the request.
      if (this.isFree && !isCode(error, "invalid-argument", "failed-precondition")) return null;
      throw error;
    }
  }

  /** Drop the cached offer of a request whose quote the backend refused as expired, whatever this machine's clock says. */
  forget(input: GenerationInput): void {
    this.offers.delete(JSON.stringify(input));
  }

  /** Note the credits left; null if jobs cost nothing. */
  has(credits: number | null): void {
    this.wallet = credits;
    this.weigh();
  }

  /** Clear the prices when the user changes. */
  leave(): void {
    this.begin();
    this.offers.clear();
    this.write(null);
  }

  private begin(): number {
    clearTimeout(this.timer);
    return (this.turn += 1);
  }

  /** Ask a worker, once per request while its offer is valid. */
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

/** Return the offer; throw `dearer`, with the offer as its details, if it costs more than the user has seen. */
export function atMost(offer: Offer | null, seen: number | null): Offer | null {
  if (!offer?.credits || offer.credits <= (seen ?? 0)) return offer;
  throw new GenerationError("dearer", `It takes ${plural(offer.credits, "credit")}. Press again if that is fine.`, true, offer);
}

// Time as a phone has it: only what passed while the app was awake, and the least that it can be on the server.

export const TICK_SECONDS = 5;
// A gap this far from a tick is no tick: the app slept, or somebody set the clock.
const GAP_SECONDS = 15;

interface Timers {
  setInterval(run: () => void, milliseconds: number): unknown;
  clearInterval(timer: unknown): void;
}
const timers = globalThis as unknown as Timers;

/**
 * Seconds in which the app was awake, in ticks, for as long as somebody listens to them.
 *
 * No clock of the phone's is compared with the server's. A tick counts for at most `TICK_SECONDS`, so that the sum can
 * only be too small: timers stand still while the app is in the background, and may fire late, never early.
 */
export class AwakeClock {
  /** Seconds awake since this clock was made. */
  seconds = 0;
  private readonly listeners = new Set<(slept: boolean) => void>();
  private timer: unknown;
  private tickedAt = 0;
  private serverMillis = Number.NEGATIVE_INFINITY;
  private notedAt = 0;

  /** Call `listener` at each tick, with whether the app has slept since the last one. Returns how to stop. */
  listen(listener: (slept: boolean) => void): () => void {
    this.listeners.add(listener);
    if (this.listeners.size === 1) {
      this.tickedAt = Date.now();
      this.timer = timers.setInterval(() => this.tick(), 1000 * TICK_SECONDS);
    }
    return () => {
      if (this.listeners.delete(listener) && this.listeners.size === 0) timers.clearInterval(this.timer);
    };
  }

  /** The server wrote a document at this time of its own, and we have it now. */
  note(serverMillis: number): void {
    if (Number.isFinite(serverMillis) && serverMillis > this.serverNow()) {
      this.serverMillis = serverMillis;
      this.notedAt = this.seconds;
    }
  }

  /** It is at least this late on the server, in milliseconds since 1970; minus infinity before the first `note`. */
  serverNow(): number {
    return this.serverMillis + 1000 * (this.seconds - this.notedAt);
  }

  private tick(): void {
    const now = Date.now();
    const gap = (now - this.tickedAt) / 1000;
    this.tickedAt = now;
    const slept = gap < 0 || gap > GAP_SECONDS;
    this.seconds += slept ? TICK_SECONDS : Math.min(gap, TICK_SECONDS);
    for (const listener of [...this.listeners]) listener(slept);
  }
}

// Counts the seconds in which the app was awake, and derives a lower bound of the server's time from them.

export const TICK_SECONDS = 5;
// A longer gap between two ticks means that the app slept or that the phone's clock was changed.
const GAP_SECONDS = 15;

interface Timers {
  setInterval(run: () => void, milliseconds: number): unknown;
  clearInterval(timer: unknown): void;
}
const timers = globalThis as unknown as Timers;

/**
 * Seconds in which the app was awake, counted in ticks while there is a listener.
 *
 * The phone's clock is never compared with the server's. A tick counts for at most `TICK_SECONDS`, so the sum can only
 * be too small: timers pause while the app is in the background, and may fire late but never early.
 */
export class AwakeClock {
  /** Seconds awake since this clock was created. */
  seconds = 0;
  private readonly listeners = new Set<(slept: boolean) => void>();
  private timer: unknown;
  private tickedAt = 0;
  private serverMillis = Number.NEGATIVE_INFINITY;
  private notedAt = 0;

  /** Call `listener` at each tick with whether the app has slept since the last one. Returns the unsubscriber. */
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

  /** Note the server time of a document that has just been received, in milliseconds since 1970. */
  note(serverMillis: number): void {
    if (Number.isFinite(serverMillis) && serverMillis > this.serverNow()) {
      this.serverMillis = serverMillis;
      this.notedAt = this.seconds;
    }
  }

  /** A lower bound of the server's time, in milliseconds since 1970; minus infinity before the first `note`. */
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

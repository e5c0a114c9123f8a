/** Why there is no result. `code` is the document's, the backend's, or one of the client's own (docs/client.md). */
export class GenerationError extends Error {
  override readonly name = "GenerationError";
  readonly code: string;
  /** Whether the same request may succeed when it is sent again. */
  readonly retryable: boolean;
  /** What the backend says beside its message, such as `retryAfterSeconds`. */
  readonly details: unknown;

  constructor(code: string, message: string, retryable: boolean, details?: unknown) {
    super(message);
    this.code = code;
    this.retryable = retryable;
    this.details = details;
  }
}

// Any other error of a callable says nothing of the job: a deadline may have passed after it was handed over.
const REFUSALS: Record<string, boolean> = {
  "invalid-argument": false,
  "permission-denied": false,
  unauthenticated: false,
  "failed-precondition": false,
  "not-found": false,
  "resource-exhausted": true,
};

// `firebase` 12 puts the HTTP status behind what the backend says.
const HTTP_STATUS = / \[\d{3}\]$/;

/** What Firebase threw, in either SDK: `functions/unavailable` and `unavailable` are the same. */
export function fromFirebase(error: unknown): GenerationError {
  if (error instanceof GenerationError) return error;
  const { code, message, details } = (error ?? {}) as { code?: unknown; message?: unknown; details?: unknown };
  const name = typeof code === "string" ? code.slice(code.lastIndexOf("/") + 1) : "unknown";
  const text = typeof message === "string" && message !== "" ? message.replace(HTTP_STATUS, "") : "Firebase did not answer.";
  return new GenerationError(name, text, REFUSALS[name] ?? true, details ?? undefined);
}

/** Whether the backend took no job, for certain. */
export const isRefusal = (error: GenerationError): boolean => error.code in REFUSALS;

export const signedOut = (): GenerationError => new GenerationError("unauthenticated", "Sign in first.", false);

/** Why there is no result. `code` comes from the document, the backend or the client itself (docs/client.md). */
export class GenerationError extends Error {
  override readonly name = "GenerationError";
  readonly code: string;
  /** Whether the same request may succeed if sent again. */
  readonly retryable: boolean;
  /** The backend's additional data, such as `retryAfterSeconds`. */
  readonly details: unknown;

  constructor(code: string, message: string, retryable: boolean, details?: unknown) {
    super(message);
    this.code = code;
    this.retryable = retryable;
    this.details = details;
  }
}

// Codes that mean that no job was submitted, and whether each is retryable. Any other error leaves that open: a
// deadline may have passed after the submission.
const REFUSALS: Record<string, boolean> = {
  "invalid-argument": false,
  "permission-denied": false,
  unauthenticated: false,
  "failed-precondition": false,
  "not-found": false,
  "resource-exhausted": true,
};

// `firebase` 12 appends the HTTP status to the backend's message.
const HTTP_STATUS = / \[\d{3}\]$/;

/** Convert an error of either Firebase SDK; `functions/unavailable` and `unavailable` are the same. */
export function fromFirebase(error: unknown): GenerationError {
  if (error instanceof GenerationError) return error;
  const { code, message, details } = (error ?? {}) as { code?: unknown; message?: unknown; details?: unknown };
  const name = typeof code === "string" ? code.slice(code.lastIndexOf("/") + 1) : "unknown";
  const text = typeof message === "string" && message !== "" ? message.replace(HTTP_STATUS, "") : "Firebase did not answer.";
  return new GenerationError(name, text, REFUSALS[name] ?? true, details ?? undefined);
}

/** Whether the backend certainly submitted no job. */
export const isRefusal = (error: GenerationError): boolean => error.code in REFUSALS;

export const signedOut = (): GenerationError => new GenerationError("unauthenticated", "Sign in first.", false);

// The page's texts for errors, stages, tasks, sizes and times.

import { GenerationError } from "@client";

const CODES: Record<string, string> = {
  unauthenticated: "Please sign in again.",
  forbidden: "This picture is not shown: the content check stopped it.",
  url_blocked: "That picture cannot be reached.",
  download_failed: "Your photo could not be read. Try another one.",
  invalid_image: "That file is not a picture this app can read. Try a JPEG or PNG.",
  too_large: "That file is too large. A photo may have up to 64 MB.",
  model_unavailable: "This is not on offer at the moment.",
  out_of_memory: "That was too large to draw. Try a smaller size.",
  gpu_fault: "The machine that drew it broke down. Try again.",
  disk_full: "The machine that drew it has no room left. Try again.",
  poison_job: "Every machine that drew this broke down. Try something else.",
  timeout: "It took too long and was stopped. Try a smaller size.",
  cancelled: "Cancelled.",
  deleted: "Deleted.",
  duplicate_in_progress: "This is being made already.",
  superseded: "This is being made already.",
  idempotency_mismatch: "Something else was made under this name. Try again.",
  worker_lost: "The machine that drew it went away. Try again.",
  storage_unavailable: "It could not be stored. Try again.",
  result_too_large: "The result was too large to be sent.",
  unavailable: "The service does not answer. Try again in a moment.",
  "deadline-exceeded": "The service took too long to answer. Try again.",
  "permission-denied": "You may not do that.",
  "not-found": "That is not there any more.",
  internal: "Something went wrong on our side. Try again.",
  "auth/invalid-email": "That is not an e-mail address.",
  "auth/missing-password": "Please enter a password.",
  "auth/weak-password": "A password needs at least six characters.",
  "auth/email-already-in-use": "There is an account with this address already. Sign in instead.",
  "auth/invalid-credential": "Address and password do not belong together.",
  "auth/user-not-found": "There is no account with this address. Create one?",
  "auth/wrong-password": "Address and password do not belong together.",
  "auth/network-request-failed": "There is no connection. Try again.",
  "auth/requires-recent-login": "You signed in too long ago for this. Sign in again first.",
  "auth/user-token-expired": "You were signed out: the account is deleted already, or its password was changed elsewhere.",
  "auth/too-many-requests": "Too many tries. Wait a moment.",
};

/** Codes that Firebase also uses without a network: after `internal` a page cannot know whether a server was reached. */
const PERHAPS_OFFLINE = new Set(["internal", "unavailable", "deadline-exceeded", "retry-limit-exceeded"]);
const KEPT = "It is drawn, but could not be stored yet. It will appear here later.";

/** Whether the worker keeps the result and stores it later by itself: a retry would make a second picture. */
export const isKept = (error: unknown): boolean => isCode(error, "storage_unavailable") && !(error as GenerationError).retryable;

/** Codes whose own messages are shown: they name the field, or how long to wait. */
const THEIR_OWN_WORDS = new Set(["dearer", "invalid_input", "invalid-argument", "resource-exhausted", "failed-precondition"]);

export function inWords(error: unknown): string {
  const { code, message, details } = (error ?? {}) as { code?: string; message?: string; details?: { reason?: string } };
  if (details?.reason === "quote") return "Its price has run out. Try again.";
  if (code && THEIR_OWN_WORDS.has(code) && message) return message;
  if (isKept(error)) return KEPT;
  const name = code ?? "";
  const bare = name.slice(name.lastIndexOf("/") + 1);
  if (!navigator.onLine && PERHAPS_OFFLINE.has(bare)) return "There is no connection. Try again once there is one.";
  return CODES[name] ?? CODES[bare] ?? "Something went wrong. Try again.";
}

export const isCode = (error: unknown, ...codes: string[]): boolean => error instanceof GenerationError && codes.includes(error.code);

export const STAGES: Record<string, string> = {
  queued: "Waiting in line",
  loading: "Getting ready",
  generating: "Drawing",
  uploading: "Almost there",
  completed: "Ready",
  failed: "Stopped",
};

export const TASKS: Record<string, string> = {
  text2img: "Picture",
  img2img: "From a photo",
  inpaint: "Repaint a part",
  upscale: "Enlarge",
  text2video: "Clip",
  img2video: "Photo to clip",
};

/** The label of a size, and its text for screen readers. */
export const SIZES: Record<string, [string, string]> = {
  square_hd: ["1:1", "Square"],
  portrait_4_3: ["3:4", "Portrait"],
  portrait_16_9: ["9:16", "Tall"],
  landscape_4_3: ["4:3", "Landscape"],
  landscape_16_9: ["16:9", "Wide"],
  "1:1": ["1:1", "Square"],
  "9:16": ["9:16", "Tall"],
  "16:9": ["16:9", "Wide"],
};

export function seconds(count: number): string {
  if (count < 1.5) return "a second";
  return count < 90 ? `${Math.round(count)} seconds` : `${Math.round(count / 60)} minutes`;
}

export const plural = (count: number, one: string): string => `${count} ${one}${count === 1 ? "" : "s"}`;

const DAYS = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const DATE = new Intl.DateTimeFormat("en", { day: "numeric", month: "short", year: "numeric" });

export function when(date: Date | null): string {
  if (!date) return "just now";
  const minutes = (date.getTime() - Date.now()) / 60_000;
  if (minutes > -1) return "just now";
  if (minutes > -60) return DAYS.format(Math.round(minutes), "minute");
  if (minutes > -24 * 60) return DAYS.format(Math.round(minutes / 60), "hour");
  return DATE.format(date);
}

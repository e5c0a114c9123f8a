// Every setting of the functions: the secrets, and the variables of `.env` (.env.example).

import { defineInt, defineSecret, defineString } from "firebase-functions/params";

export const runpodKey = defineSecret("RUNPOD_API_KEY");
export const ticketSecret = defineSecret("TICKET_SECRET");
export const endpoint = defineString("RUNPOD_ENDPOINT");
export const runpodUrl = defineString("RUNPOD_URL", { default: "https://api.runpod.ai/v2" });
// The region of the callables and of `sweep`. Google's tools place `settle` beside its database.
export const region = defineString("REGION", { default: "us-central1" });
export const database = defineString("FIRESTORE_DATABASE", { default: "(default)" });
// The worker's FIREBASE_STORAGE_BUCKET, if it is not the project's default bucket.
export const storageBucket = defineString("STORAGE_BUCKET", { default: "" });
export const push = defineString("PUSH", { default: "off" }); // "on": a job's end sends a push to its user's devices

export const jobsPerMinute = defineInt("JOBS_PER_MINUTE", { default: 10 }); // per user; 0: no limit, and Firestore is not used
export const quotesPerMinute = defineInt("QUOTES_PER_MINUTE", { default: 60 }); // the same for calls that create no job

export const credits = defineString("CREDITS", { default: "off" }); // "on": jobs cost credits
export const freeCredits = defineInt("FREE_CREDITS", { default: 0 }); // of a new wallet
export const creditsPer1000Units = defineInt("CREDITS_PER_1000_UNITS", { default: 1000 });
// The hold of a job without a quote: the worker's MAX_JOB_COST in millions; by task: "800, text2video=8000".
export const maxUnits = defineString("MAX_UNITS", { default: "8000" });

// RunPod drops a job this long after its submission, whether it waits or runs: 15 minutes in the queue, which is how long
// the app waits, and 10 of work. Without it a job waits for a day, and is then generated for nobody.
export const TTL_SECONDS = 25 * 60;

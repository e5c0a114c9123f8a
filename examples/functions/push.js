// Sends a push when a job ends: to each device that its user registered, once per attempt that ends. Anyone who holds the
// phone sees it on the lock screen, and Google and Apple relay it, so it has a fixed text, the file's id and its
// thumbnail, and nothing of the prompt. Best effort: the app listens to the document in any case.

import { createHash } from "node:crypto";
import { FieldValue, getFirestore, Timestamp } from "firebase-admin/firestore";
import { getMessaging } from "firebase-admin/messaging";
import { logger } from "firebase-functions";
import { HttpsError, onCall } from "firebase-functions/https";
import { countQuestion } from "./limit.js";
import { database, push, region } from "./params.js";
import { caller } from "./request.js";
import { hasEnded, isDelivered } from "./wallet.js";

const TEXTS = {
  completed: { title: "It is ready", body: "Tap to see what was made for you." },
  failed: { title: "It did not work", body: "Tap to see why, and to try again." },
  kept: { title: "It takes a little longer", body: "It is made, but could not be stored yet. You hear again once it is here." },
};
const CHANNEL = "generations"; // Android: the app creates it, or the push comes through the app's default one
const PLATFORMS = ["ios", "android", "web"];
const TOKEN = /^[\x21-\x7e]{1,1024}$/;
const DAY_MS = 24 * 3_600_000;
const STALE_MS = 270 * DAY_MS; // FCM itself expires the token of a device that was inactive for so long
const KEPT_MS = 8 * DAY_MS; // markers: as long as a trigger may be redelivered
const MOST_DEVICES = 20;
const GRPC_NOT_FOUND = 5;
const GRPC_FAILED_PRECONDITION = 9;

const digest = (text) => createHash("sha256").update(text).digest();
const devicesOf = (uid) => getFirestore(database.value()).collection("users").doc(uid).collection("devices");

/** `{token, platform}`: this device receives the pushes of the caller, and no longer those of who was signed in before. */
export const registerDevice = onCall(
  { region, enforceAppCheck: true, consumeAppCheckToken: true, maxInstances: 20 },
  async (call) => {
    const uid = caller(call);
    const { token, platform } = call.data ?? {};
    if (typeof token !== "string" || !TOKEN.test(token))
      throw new HttpsError("invalid-argument", "token: must be the registration token that FCM gave this device");
    if (!PLATFORMS.includes(platform))
      throw new HttpsError("invalid-argument", `platform: must be one of ${PLATFORMS.join(", ")}`);
    await countQuestion(uid);
    const device = devicesOf(uid).doc(digest(token).toString("hex").slice(0, 32));
    const batch = getFirestore(database.value()).batch();
    for (const { ref } of await devicesWith(token)) if (ref.path !== device.path) batch.delete(ref);
    batch.set(device, { token, platform, updated_at: FieldValue.serverTimestamp() });
    await batch.commit();
    // Two users who register the same device at once do not see each other: the last one keeps it.
    const [, ...earlier] = await devicesWith(token);
    await Promise.all(earlier.map(forget));
    await living(uid);
    return {};
  },
);

/** The devices of all users with this token, the last registered first. */
async function devicesWith(token) {
  const { docs } = await getFirestore(database.value()).collectionGroup("devices").where("token", "==", token).get();
  return docs
    .filter(({ ref }) => /^users\/[^/]+\/devices\//.test(ref.path))
    .sort((one, other) => (orderOf(one) < orderOf(other) ? 1 : -1));
}

const orderOf = ({ updateTime, ref }) => `${updateTime.valueOf()} ${ref.path}`;

/** Deletes a device, unless it was registered again meanwhile; a missing one is no error. */
async function forget({ ref, updateTime }) {
  try {
    await ref.delete({ lastUpdateTime: updateTime });
  } catch (error) {
    if (![GRPC_NOT_FOUND, GRPC_FAILED_PRECONDITION].includes(error.code)) throw error;
  }
}

/** Pushes to the user's devices if the change from `before` to `after` ends the generation, other than by cancelling it. */
export async function announce(uid, fileUid, { before, after }) {
  if (push.value() !== "on" || !isNews(before, after)) return;
  try {
    const devices = await living(uid);
    if (devices.length === 0 || !(await isFirst(uid, fileUid, after))) return;
    const message = messageFor(fileUid, after);
    const { responses } = await getMessaging().sendEach(devices.map(({ token }) => ({ ...message, token })));
    const dead = devices.filter((_, index) => isDead(responses[index].error));
    await Promise.all(dead.map(({ ref }) => ref.delete()));
    const failed = responses.filter(({ success }) => !success).length - dead.length;
    if (failed > 0) logger.warn("Pushes were not taken", { failed });
  } catch (error) {
    logger.error("A push was not sent", { name: error.name, code: error.code });
  }
}

const ending = (document) => (hasEnded(document) ? `${document.status} ${document.attempt}` : null);

/** The text about a document. A result that the worker keeps comes later by itself; an inline one the app cannot open. */
function textFor(document) {
  if (document.status === "completed") return isDelivered(document) ? TEXTS.completed : TEXTS.failed;
  const { code, retryable } = document.error ?? {};
  return code === "storage_unavailable" && retryable === false ? TEXTS.kept : TEXTS.failed;
}

const isNews = (before, after) =>
  ending(after) !== null && ending(before) !== ending(after) && after.error?.code !== "cancelled";

/**
 * Whether the document still has this end, and no push was sent for it yet: a late trigger may be about a document that was
 * deleted or taken down since. A failed result that the worker delivers later is announced once more.
 */
async function isFirst(uid, fileUid, end) {
  const { status, attempt = 1 } = end;
  const firestore = getFirestore(database.value());
  const marker = firestore.collection("users").doc(uid).collection("pushed").doc(fileUid);
  return await firestore.runTransaction(async (transaction) => {
    const [stands, before] = await transaction.getAll(firestore.doc(`generations/${uid}/files/${fileUid}`), marker);
    if (ending(stands.data()) !== ending(end)) return false;
    const told = before.data();
    const rank = (end) => end.attempt + (end.status === "completed" ? 0.5 : 0);
    if (told && rank(told) >= rank({ status, attempt })) return false;
    transaction.set(marker, { status, attempt, expires_at: Timestamp.fromMillis(Date.now() + KEPT_MS) });
    return true;
  });
}

/** A user's devices, the newest first. Deletes those that are stale or exceed the limit. */
async function living(uid) {
  const { docs } = await devicesOf(uid).orderBy("updated_at", "desc").get();
  const isStale = (device, place) => place >= MOST_DEVICES || device.get("updated_at").toMillis() < Date.now() - STALE_MS;
  const stale = docs.filter(isStale);
  await Promise.all(stale.map(({ ref }) => ref.delete()));
  return docs.filter((device) => !stale.includes(device)).map((device) => ({ ref: device.ref, token: device.get("token") }));
}

/** Whether FCM says that the device no longer exists. It refuses an invalid message with nearly the same text. */
const isDead = (error) =>
  error?.code === "messaging/registration-token-not-registered" ||
  error?.code === "messaging/invalid-registration-token" ||
  (error?.code === "messaging/invalid-argument" && /registration token/i.test(error.message));

/** The message for FCM, without the token: https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages. */
export function messageFor(fileUid, document) {
  const { status } = document;
  const text = textFor(document);
  const [file] = (status === "completed" && document.generation_data?.files) || [];
  const imageUrl = file?.nsfw ? null : (file?.thumbnail_url ?? null);
  // A later push about the same file replaces this one. Apple allows 64 bytes for the topic, browsers 32 characters.
  const topic = digest(fileUid).toString("base64url").slice(0, 32);
  return {
    notification: { ...text, ...(imageUrl && { imageUrl }) },
    data: { file_uid: fileUid, status },
    android: { collapseKey: topic, priority: "high", ttl: DAY_MS, notification: { channelId: CHANNEL, tag: topic } },
    apns: {
      headers: {
        "apns-push-type": "alert",
        "apns-priority": "10",
        "apns-collapse-id": topic,
        "apns-expiration": String(Math.floor((Date.now() + DAY_MS) / 1000)),
      },
      payload: { aps: { mutableContent: true, threadId: CHANNEL, sound: "default" } },
      ...(imageUrl && { fcmOptions: { imageUrl } }),
    },
    webpush: {
      headers: { TTL: String(DAY_MS / 1000), Topic: topic, Urgency: "normal" },
      notification: { ...text, tag: topic, ...(imageUrl && { image: imageUrl }) },
    },
  };
}

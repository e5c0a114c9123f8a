// Stands in for Firebase Cloud Messaging on loopback: accepts what firebase-admin sends over HTTP/2, and refuses what the
// real service would, such as a message that violates the reference. Also serves the access token, like Google's
// metadata server.
// https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages

import { once } from "node:events";
import { createServer } from "node:http";
import http2 from "node:http2";

const LOOPBACK = "127.0.0.1";
const FCM = "https://fcm.googleapis.com";
const ACCESS_TOKEN = "a token of the functions' own account";

const isText = (value) => typeof value === "string";
const isTexts = (value) => Object.values(value).every(isText);
const isUrl = (value) => isText(value) && URL.canParse(value);
const notification = { title: isText, body: isText, image: isUrl };

/** The fields of a message and their checks; any other field is unknown, as for Google's JSON parser. */
const MESSAGE = {
  token: isText,
  notification,
  data: isTexts,
  android: {
    collapse_key: isText,
    priority: (value) => ["normal", "high"].includes(value),
    ttl: (value) => /^\d+(\.\d+)?s$/.test(value),
    notification: { ...notification, channel_id: isText, tag: isText },
  },
  apns: {
    headers: isTexts,
    payload: { aps: { "mutable-content": (value) => value === 1, "thread-id": isText, sound: isText } },
    fcmOptions: { image: isUrl }, // camel case, as firebase-admin writes it: FCM accepts both spellings
  },
  webpush: { headers: isTexts, notification: { ...notification, tag: isText } },
};

/** The fields of a message that are not valid. */
function* mistakes(value, wanted, place) {
  if (typeof wanted === "function") {
    if (!wanted(value)) yield place;
    return;
  }
  for (const [name, inner] of Object.entries(value)) {
    if (name in wanted) yield* mistakes(inner, wanted[name], `${place}.${name}`);
    else yield `${place}.${name}`;
  }
}

const refusal = (code, status, errorCode, message) => ({
  code,
  body: {
    error: {
      code,
      status,
      message,
      details: [{ "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", errorCode }],
    },
  },
});

function answerTo({ message, ...rest }) {
  const wrong = [...Object.keys(rest), ...mistakes(message ?? {}, MESSAGE, "message")];
  if (wrong.length > 0) return refusal(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", `Invalid JSON payload: ${wrong}`);
  if (Buffer.byteLength(JSON.stringify(message)) > 4096)
    return refusal(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "Message is too big");
  if (message.apns.headers["apns-collapse-id"].length > 64 || message.webpush.headers.Topic.length > 32)
    return refusal(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "A collapse id is too long");
  if (message.token.startsWith("gone")) return refusal(404, "NOT_FOUND", "UNREGISTERED", "Requested entity was not found.");
  if (message.token.startsWith("none"))
    return refusal(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "The registration token is not a valid FCM registration token");
  if (message.token.startsWith("broken")) return refusal(500, "INTERNAL", "INTERNAL", "Internal error encountered.");
  if (message.token.startsWith("odd"))
    return refusal(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "Request contains an invalid argument.");
  return { code: 200, body: { name: `projects/demo-functions/messages/${message.token}` } };
}

export class Fcm {
  /** @type {any[]} */
  sent = [];
  isDown = false;

  async start() {
    this.server = http2.createServer();
    this.server.on("stream", async (stream, headers) => {
      const chunks = [];
      for await (const chunk of stream) chunks.push(chunk);
      const isAsked =
        headers[":method"] === "POST" &&
        headers[":path"] === "/v1/projects/demo-functions/messages:send" &&
        headers.authorization === `Bearer ${ACCESS_TOKEN}`;
      const request = JSON.parse(Buffer.concat(chunks).toString());
      const { code, body } = isAsked ? answerTo(request) : refusal(401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR", "Who?");
      this.sent.push({ code, message: request.message });
      stream.respond({ ":status": code, "content-type": "application/json; charset=UTF-8" });
      stream.end(JSON.stringify(body));
    });
    this.metadata = createServer((request, response) => {
      const isToken = request.url.includes("/service-accounts/default/token");
      response.writeHead(isToken ? 200 : 404, { "Metadata-Flavor": "Google", "Content-Type": "application/json" });
      response.end(isToken ? JSON.stringify({ access_token: ACCESS_TOKEN, expires_in: 3600, token_type: "Bearer" }) : "");
    });
    for (const server of [this.server, this.metadata]) await once(server.listen(0, LOOPBACK), "listening");
    process.env.GCE_METADATA_HOST = `${LOOPBACK}:${this.metadata.address().port}`;
    process.env.METADATA_SERVER_DETECTION = "assume-present";
    // The only difference from Google's cloud: where the connection goes.
    const connect = http2.connect;
    http2.connect = (authority, ...options) => {
      if (String(authority) !== FCM) return connect(authority, ...options); // the local Firestore
      const session = connect(`http://${LOOPBACK}:${this.isDown ? 9 : this.server.address().port}`, ...options);
      const request = session.request.bind(session);
      // firebase-admin sends "https:" as the scheme, with the colon: Google's server accepts that, Node's does not.
      session.request = (headers, ...more) => request({ ...headers, ":scheme": "http" }, ...more);
      return session;
    };
    return this;
  }

  reset() {
    this.sent.length = 0;
    this.isDown = false;
  }

  async stop() {
    this.metadata.closeAllConnections();
    this.metadata.close();
    this.server.close();
  }
}

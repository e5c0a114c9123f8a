"use strict";
// Runs Firebase's Storage emulator without its command line and the Java rules runtime.
// A client without administrator rights may do what storage.rules allow; without an ID token only a download token opens
// an object.
// Adds what Cloud Storage does and the emulator does not: a single known bucket, generation preconditions,
// generations that always grow, resumable uploads in several chunks, the CRC32C check, download tokens that a
// metadata update replaces, and a custom time that can only be moved to later.

const { AsyncLocalStorage } = require("node:async_hooks");
const http = require("node:http");
const express = require("express");
const { EmulatorRegistry } = require("firebase-tools/lib/emulator/registry");
const { StorageEmulator } = require("firebase-tools/lib/emulator/storage");
const { crc32c, crc32cToString } = require("firebase-tools/lib/emulator/storage/crc");
const { ForbiddenError } = require("firebase-tools/lib/emulator/storage/errors");
const { CloudStorageObjectMetadata } = require("firebase-tools/lib/emulator/storage/metadata");
const { createApp } = require("firebase-tools/lib/emulator/storage/server");
const { verify } = require("./storage_rules");

const requests = new AsyncLocalStorage();

const failure = (code, reason, message) => ({
  error: { code, message, errors: [{ message, domain: "global", reason }] },
});

/** Answer with another status through the emulator's "forbidden" path, the only exit that every route has. */
function refuse(code, reason, message) {
  const { res } = requests.getStore();
  res.sendStatus = () => res.status(code).json(failure(code, reason, message));
  throw new ForbiddenError(message);
}

/** Check the `if…Match` parameters of https://cloud.google.com/storage/docs/request-preconditions. */
function checkPreconditions(query, stored) {
  const generation = stored ? String(stored.generation) : "0";
  const metageneration = stored ? String(stored.metageneration) : "0";
  const failed = [
    ["ifGenerationMatch", (wanted) => wanted !== generation],
    ["ifGenerationNotMatch", (wanted) => wanted === generation],
    ["ifMetagenerationMatch", (wanted) => wanted !== metageneration],
    ["ifMetagenerationNotMatch", (wanted) => wanted === metageneration],
  ].find(([name, differs]) => query[name] !== undefined && differs(String(query[name])));
  if (failed) {
    refuse(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.");
  }
}

/** https://cloud.google.com/storage/docs/metadata#custom-time */
function putOff(stored, customTime) {
  const wanted = new Date(customTime);
  if (stored.customTime && !(customTime && wanted >= stored.customTime)) {
    refuse(400, "invalid", "Custom time cannot be removed or set to an earlier date and time.");
  }
  stored.customTime = wanted;
}

function addPreconditions(emulator) {
  const { adminStorageLayer: layer, uploadService } = emulator;
  const query = () => requests.getStore()?.req.query ?? {};
  let lastGeneration = 0;

  for (const name of ["startOneShotUpload", "startResumableUpload"]) {
    const begin = uploadService[name].bind(uploadService);
    uploadService[name] = (request) => Object.assign(begin(request), { preconditions: query() });
  }

  const store = layer.uploadObject.bind(layer);
  layer.uploadObject = async (upload) => {
    checkPreconditions(upload.preconditions ?? {}, layer.getMetadata(upload.bucketId, upload.objectId));
    const promised = upload.metadata?.crc32c ?? /crc32c=([^,]+)/.exec(requests.getStore()?.req.header("x-goog-hash") ?? "")?.[1];
    const received = crc32cToString(crc32c(emulator._persistence.readBytes(upload.path, upload.size)));
    if (promised !== undefined && promised !== received) {
      refuse(400, "invalid", `Provided CRC32C "${promised}" doesn't match calculated CRC32C "${received}".`);
    }
    const metadata = await store(upload);
    lastGeneration = Math.max(Date.now() * 1000, lastGeneration + 1);
    metadata.generation = lastGeneration;
    if (upload.metadata?.customTime) metadata.customTime = new Date(upload.metadata.customTime);
    return metadata;
  };

  for (const name of ["getObject", "deleteObject", "updateObjectMetadata"]) {
    const act = layer[name].bind(layer);
    layer[name] = async (request) => {
      const stored = layer.getMetadata(request.bucketId, request.decodedObjectId);
      checkPreconditions(query(), stored);
      if (stored && request.metadata?.metadata?.firebaseStorageDownloadTokens) stored.downloadTokens = [];
      if (stored && request.metadata && "customTime" in request.metadata) putOff(stored, request.metadata.customTime);
      return act(request);
    };
  }
}

/** Accept all but the last chunk of a resumable upload; the emulator itself ends an upload at the first chunk. */
function takeChunk(emulator) {
  return (req, res, next) => {
    const range = /^bytes (?:(\d+)-(\d+)|\*)\/(\d+|\*)$/.exec(req.header("content-range") ?? "");
    if (!range || !req.query.upload_id) return next();
    const { uploadService } = emulator;
    const upload = uploadService._uploads.get(String(req.query.upload_id));
    if (!upload) return res.sendStatus(404);
    const [, first, last, total] = range;
    const more = () => {
      if (upload.size > 0) res.set("Range", `bytes=0-${upload.size - 1}`);
      return res.status(308).end();
    };
    if (first === undefined) {
      if (upload.status !== "final") return more();
      const stored = emulator.adminStorageLayer.getMetadata(upload.bucketId, upload.objectId);
      return stored ? res.json(new CloudStorageObjectMetadata(stored)) : res.sendStatus(404);
    }
    if (upload.status !== "active" || Number(first) > upload.size) return res.sendStatus(400);
    req.body = req.body.subarray(upload.size - Number(first));
    if (total !== "*" && Number(last) + 1 === Number(total)) return next();
    uploadService.continueResumableUpload(upload.id, req.body);
    return more();
  };
}

async function start(projectId, bucket) {
  const emulator = new StorageEmulator({
    projectId,
    host: "127.0.0.1",
    rules: { name: "none", content: "" },
  });
  emulator.rulesManager._ruleset = { verify };
  addPreconditions(emulator);

  const app = express();
  app.use((req, res, next) => {
    // The client library uses /storage/v1 for every request; the emulator serves only some of them there.
    req.url = req.url.replace(/^\/storage\/v1\/b\//, "/b/");
    const named = /^(?:\/v0|\/(?:upload|download)\/storage\/v1)?\/b\/([^/?]+)/.exec(req.url)?.[1];
    if (named !== undefined && decodeURIComponent(named) !== bucket) {
      return res.status(404).json(failure(404, "notFound", "The specified bucket does not exist."));
    }
    return requests.run({ req, res }, next);
  });
  app.get("/b/:bucket", (req, res) => res.json({ kind: "storage#bucket", id: bucket, name: bucket }));
  app.put("/upload/storage/v1/b/:bucket/o", express.raw({ type: () => true, limit: "130mb" }), takeChunk(emulator));
  app.use(await createApp(projectId, emulator));

  const server = http.createServer(app);
  server.keepAliveTimeout = 600_000;
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  emulator.args.port = port;
  EmulatorRegistry.set("storage", emulator);
  return {
    port,
    reset: async () => {
      await emulator._persistence.deleteAll();
      emulator.reset();
    },
  };
}

module.exports = { start };

"use strict";
// Extends @firestore-emulator/server with guarantees that a job protocol relies on and that it does not give:
// a commit applies all of its writes or none, preconditions on the update time are checked, a transaction whose
// documents changed is ABORTED, every transform of a write counts, update times never repeat, collection groups and
// nested fields can be queried, and the limits of the real service are enforced.
// Also keeps a journal of the writes, and injects faults per method (a status code before the call, or after it took
// effect).

const { FirestoreServer, FirestoreState, FirestoreStateDocument } = require("@firestore-emulator/server");
const messages = require("@firestore-emulator/proto/dist/google/firestore/v1/firestore");
const { Document, MapValue, Value } = require("@firestore-emulator/proto/dist/google/firestore/v1/document");
const { Write, WriteResult } = require("@firestore-emulator/proto/dist/google/firestore/v1/write");
const { Status } = require("@firestore-emulator/proto/dist/google/rpc/status");
const { Timestamp } = require("@firestore-emulator/proto/dist/google/protobuf/timestamp");
const { ServerCredentials, status } = require("@grpc/grpc-js");
const { randomBytes } = require("node:crypto");

// https://firebase.google.com/docs/firestore/quotas and /storage-size
const MAX_DOCUMENT_BYTES = 1_048_576;
const MAX_VALUE_BYTES = MAX_DOCUMENT_BYTES - 89;
const MAX_NAME_BYTES = 1500;
const MAX_DEPTH = 20;
const MAX_INDEX_ENTRIES = 40_000;
const SERVICE = "/google.firestore.v1.Firestore/";

class RpcError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
    this.details = message;
  }
}

// ---- values and field paths ------------------------------------------------------------------------------------

/** "a.`b.c`" -> ["a", "b.c"] */
const segments = (path) =>
  [...path.matchAll(/`((?:[^`\\]|\\.)*)`|([^.`]+)/g)].map((m) => (m[1] ?? m[2]).replace(/\\(.)/g, "$1"));

function getPath(fields, path) {
  let value;
  for (const name of path) {
    value = fields?.get(name);
    fields = value?.has_map_value ? value.map_value.fields : undefined;
  }
  return value;
}

function setPath(fields, path, value) {
  for (const name of path.slice(0, -1)) {
    if (!fields.get(name)?.has_map_value) {
      if (value === undefined) return;
      fields.set(name, new Value({ map_value: new MapValue({ fields: new Map() }) }));
    }
    fields = fields.get(name).map_value.fields;
  }
  if (value === undefined) fields.delete(path.at(-1));
  else fields.set(path.at(-1), value);
}

const timestamp = (millis) =>
  new Timestamp({ seconds: Math.floor(millis / 1000), nanos: (millis % 1000) * 1_000_000 });
const toMillis = (time) => time.seconds * 1000 + Math.floor(time.nanos / 1_000_000);
const same = (a, b) => Buffer.compare(Buffer.from(a.serialize()), Buffer.from(b.serialize())) === 0;

function transformed(before, transform, millis) {
  if (transform.has_set_to_server_value) return new Value({ timestamp_value: timestamp(millis) });
  if (transform.has_increment) {
    const by = transform.increment;
    const number = (v) => (v.has_integer_value ? v.integer_value : v.double_value);
    const isNumber = before !== undefined && (before.has_integer_value || before.has_double_value);
    const sum = (isNumber ? number(before) : 0) + number(by);
    const whole = by.has_integer_value && !(isNumber && before.has_double_value);
    return new Value(whole ? { integer_value: sum } : { double_value: sum });
  }
  const values = before?.has_array_value ? before.array_value.values : [];
  if (transform.has_append_missing_elements) {
    const added = transform.append_missing_elements;
    added.values = [...values, ...added.values.filter((v) => !values.some((old) => same(old, v)))];
    return new Value({ array_value: added });
  }
  if (transform.has_remove_all_from_array) {
    const removed = transform.remove_all_from_array;
    removed.values = values.filter((v) => !removed.values.some((gone) => same(gone, v)));
    return new Value({ array_value: removed });
  }
  throw new RpcError(status.UNIMPLEMENTED, "this field transform is not known here");
}

const invalid = (message) => new RpcError(status.INVALID_ARGUMENT, message);
const stringBytes = (text) => Buffer.byteLength(text) + 1;

/** The size of a value in a document. */
function valueBytes(value) {
  if (value.has_string_value) return stringBytes(value.string_value);
  if (value.has_bytes_value) return value.bytes_value.length;
  if (value.has_map_value) return fieldsBytes(value.map_value.fields);
  if (value.has_array_value) return value.array_value.values.reduce((sum, inner) => sum + valueBytes(inner), 0);
  if (value.has_null_value || value.has_boolean_value) return 1;
  if (value.has_geo_point_value) return 16;
  if (value.has_reference_value) return nameBytes(value.reference_value);
  return 8;
}

const fieldsBytes = (fields) =>
  [...fields].reduce((sum, [name, value]) => sum + stringBytes(name) + valueBytes(value), 0);
const nameBytes = (name) =>
  name.split("/documents/")[1].split("/").reduce((sum, id) => sum + stringBytes(id), 16);

/** The number of index entries: two per field, ascending and descending, and one per array element. */
function indexEntries(fields) {
  let count = 0;
  for (const value of fields.values()) {
    count += 2;
    if (value.has_map_value) count += indexEntries(value.map_value.fields);
    if (value.has_array_value) count += value.array_value.values.length;
  }
  return count;
}

function checkFields(fields, depth, path) {
  for (const [name, value] of fields) {
    if (name === "" || /^__.*__$/s.test(name)) throw invalid("A field name is reserved");
    if (Buffer.byteLength(path + name) > MAX_NAME_BYTES) throw invalid("A field path is longer than 1500 bytes");
    checkValue(value, depth, `${path}${name}.`);
  }
}

function checkValue(value, depth, path) {
  if (depth > MAX_DEPTH) throw invalid("Property is nested deeper than 20 levels");
  if (valueBytes(value) > MAX_VALUE_BYTES) throw invalid("A value is longer than 1048487 bytes");
  if (value.has_map_value) checkFields(value.map_value.fields, depth + 1, path);
  if (!value.has_array_value) return;
  for (const inner of value.array_value.values) {
    if (inner.has_array_value) throw invalid("Nested arrays are not allowed");
    checkValue(inner, depth + 1, path);
  }
}

function checkDocument(name, fields) {
  for (const id of name.split("/documents/")[1].split("/")) {
    if (id === "" || id === "." || id === ".." || /^__.*__$/.test(id) || Buffer.byteLength(id) > MAX_NAME_BYTES) {
      throw invalid(`Resource id "${id.slice(0, 20)}" is invalid`);
    }
  }
  checkFields(fields, 1, "");
  if (nameBytes(name) + fieldsBytes(fields) + 32 > MAX_DOCUMENT_BYTES) {
    throw invalid("The document is larger than 1048576 bytes");
  }
  if (indexEntries(fields) > MAX_INDEX_ENTRIES) throw invalid("too many index entries for entity");
}

// ---- the service -----------------------------------------------------------------------------------------------

class Service {
  constructor(state) {
    this.state = state;
    this.transactions = new Map(); // id -> Map(document name -> the version read)
    this.journal = [];
    this.lastMillis = 0;
  }

  /** Milliseconds since 1970, never the same twice, since the emulator's update times are no finer. */
  now() {
    this.lastMillis = Math.max(Date.now(), this.lastMillis + 1);
    return this.lastMillis;
  }

  version(name) {
    const { metadata } = this.state.getDocument(name);
    return metadata.hasExist ? metadata.updatedAt.getTime() : 0;
  }

  begin() {
    const id = randomBytes(12);
    this.transactions.set(id.toString("hex"), new Map());
    return id;
  }

  reads(id) {
    const reads = this.transactions.get(Buffer.from(id).toString("hex"));
    if (!reads) throw new RpcError(status.INVALID_ARGUMENT, "The transaction is unknown or has ended");
    return reads;
  }

  end(id) {
    this.transactions.delete(Buffer.from(id).toString("hex"));
  }

  commit(writes, transaction) {
    if (transaction?.length) {
      const reads = this.reads(transaction);
      this.end(transaction);
      for (const [name, version] of reads) {
        if (this.version(name) !== version) {
          throw new RpcError(status.ABORTED, "Too much contention on these documents. Please try again.");
        }
      }
    }
    const millis = this.now();
    const after = new Map(); // document name -> its fields after this commit, or null when deleted
    for (const write of writes) this.compute(write, millis, after);
    for (const [name, fields] of after) this.apply(name, fields, millis);
    for (const write of writes) this.record(write, millis);
    return { millis, results: writes.map(() => new WriteResult({ update_time: timestamp(millis) })) };
  }

  compute(write, millis, after) {
    const name = write.has_delete ? write.delete : write.update?.name;
    if (name === undefined) throw new RpcError(status.UNIMPLEMENTED, "this kind of write is not known here");
    if (!after.has(name)) {
      const document = this.state.getDocument(name);
      after.set(name, document.metadata.hasExist ? document.toV1Document().fields : null);
    }
    this.checkPrecondition(write, name, after.get(name) !== null);
    if (write.has_delete) {
      after.set(name, null);
      return;
    }
    const given = write.update.fields;
    const fields = write.has_update_mask ? (after.get(name) ?? new Map()) : new Map(given);
    for (const path of write.has_update_mask ? write.update_mask.field_paths : []) {
      setPath(fields, segments(path), getPath(given, segments(path)));
    }
    for (const transform of write.update_transforms) {
      const path = segments(transform.field_path);
      setPath(fields, path, transformed(getPath(fields, path), transform, millis));
    }
    checkDocument(name, fields);
    after.set(name, fields);
  }

  checkPrecondition(write, name, exists) {
    const wanted = write.has_current_document ? write.current_document : undefined;
    const shown = name.split("/documents/")[1];
    if (wanted?.has_exists && wanted.exists && !exists) {
      throw new RpcError(status.NOT_FOUND, `No document to update: ${shown}`);
    }
    if (wanted?.has_exists && !wanted.exists && exists) {
      throw new RpcError(status.ALREADY_EXISTS, `Document already exists: ${shown}`);
    }
    if (wanted?.has_update_time && toMillis(wanted.update_time) !== this.version(name)) {
      throw new RpcError(
        status.FAILED_PRECONDITION,
        "the stored version does not match the required base version",
      );
    }
  }

  apply(name, fields, millis) {
    const document = this.state.getDocument(name);
    if (fields === null) {
      if (document.metadata.hasExist) document.delete();
      return;
    }
    document.fields = {};
    const write = new Write({ update: new Document({ name, fields }) });
    this.state.writeV1Document(new Date(millis), write);
  }

  record(write, millis) {
    const name = write.has_delete ? write.delete : write.update.name;
    const plain = write.has_delete ? {} : toPlain(write.update.fields);
    for (const { field_path } of write.has_delete ? [] : write.update_transforms) plain[field_path] = null;
    this.journal.push({
      at: millis / 1000,
      path: name.split("/documents/")[1],
      kind: write.has_delete ? "delete" : "write",
      fields: plain,
    });
  }

  // -- one method per RPC: unary ones return their response, streaming ones call `send`

  BeginTransaction() {
    return new messages.BeginTransactionResponse({ transaction: this.begin() });
  }

  Rollback({ transaction }) {
    this.end(transaction);
  }

  Commit({ writes, transaction }) {
    const { millis, results } = this.commit(writes, transaction);
    return new messages.CommitResponse({ commit_time: timestamp(millis), write_results: results });
  }

  BatchWrite({ writes }) {
    const write_results = [];
    const outcome = writes.map((write) => {
      try {
        write_results.push(...this.commit([write]).results);
        return new Status({ code: status.OK });
      } catch (error) {
        write_results.push(new WriteResult({}));
        return new Status({ code: error.code ?? status.INTERNAL, message: error.details });
      }
    });
    return new messages.BatchWriteResponse({ write_results, status: outcome });
  }

  ListDocuments({ parent, collection_id }) {
    const documents = this.state.getCollection(`${parent}/${collection_id}`).getAllDocuments();
    return new messages.ListDocumentsResponse({
      documents: documents.filter((d) => d.metadata.hasExist).map((d) => d.toV1Document()),
    });
  }

  BatchGetDocuments(request, send) {
    const transaction = request.has_new_transaction ? this.begin() : request.transaction;
    if (request.has_new_transaction) send(new messages.BatchGetDocumentsResponse({ transaction }));
    const reads = transaction?.length ? this.reads(transaction) : new Map();
    const read_time = timestamp(Math.max(Date.now(), this.lastMillis));
    for (const name of request.documents) {
      const document = this.state.getDocument(name);
      reads.set(name, this.version(name));
      send(
        new messages.BatchGetDocumentsResponse(
          document.metadata.hasExist
            ? { found: document.toV1Document(), read_time }
            : { missing: name, read_time },
        ),
      );
    }
  }

  RunQuery(request, send) {
    const starts = request.consistency_selector === "new_transaction";
    const transaction = starts ? this.begin() : request.transaction;
    if (starts) send(new messages.RunQueryResponse({ transaction }));
    const reads = transaction?.length ? this.reads(transaction) : new Map();
    const read_time = timestamp(Math.max(Date.now(), this.lastMillis));
    for (const document of this.state.v1Query(request.parent, request.structured_query)) {
      reads.set(document.getPath(), this.version(document.getPath()));
      send(new messages.RunQueryResponse({ document: document.toV1Document(), read_time }));
    }
    send(new messages.RunQueryResponse({ read_time }));
  }
}

/** Map(name -> Value) -> plain JSON, for the journal. */
function toPlain(fields) {
  const plain = (v) => {
    if (v.has_map_value) return toPlain(v.map_value.fields);
    if (v.has_array_value) return v.array_value.values.map(plain);
    if (v.has_timestamp_value) return new Date(toMillis(v.timestamp_value)).toISOString();
    if (v.has_null_value) return null;
    if (v.has_bytes_value) return Buffer.from(v.bytes_value).toString("base64");
    for (const kind of ["string", "integer", "double", "boolean", "reference"]) {
      if (v[`has_${kind}_value`]) return v[`${kind}_value`];
    }
    return null;
  };
  return Object.fromEntries([...fields].map(([name, value]) => [name, plain(value)]));
}

// ---- the state: collection groups, whole trees and nested fields in queries --------------------------------------------------

function descendants(holder, id) {
  return Object.values(holder.collections).flatMap((collection) => {
    const documents = collection.getAllDocuments();
    return [...(!id || collection.name === id ? documents : []), ...documents.flatMap((d) => descendants(d, id))];
  });
}

class QueryableState extends FirestoreState {
  v1Query(parent, query) {
    // Paging: the last cursor value names the document after which the next page begins.
    const after = query.has_start_at ? query.start_at.values.at(-1)?.reference_value : undefined;
    if (!after) return this.found(parent, query);
    const most = query.has_limit ? query.limit.value : Infinity;
    query.limit = undefined;
    const all = this.found(parent, query);
    const at = all.findIndex((document) => document.toV1Document().name === after);
    return all.slice(at + 1, at + 1 + most);
  }

  found(parent, query) {
    const { collection_id: id, all_descendants: group } = query.from[0] ?? {};
    if (!group) return super.v1Query(parent, query);
    const [project, database, path] = /^projects\/([^/]+)\/databases\/([^/]+)\/documents\/?(.*)$/.exec(parent).slice(1);
    const root = path ? this.getDocument(parent) : this.getProject(project).getDatabase(database);
    if (!id) return descendants(root).filter((d) => d.metadata.hasExist); // a query of a whole tree, to delete it
    const found = { getAllDocuments: () => descendants(root, id) };
    return FirestoreState.prototype.v1Query.call({ getCollection: () => found }, parent, query);
  }
}

FirestoreStateDocument.prototype.getField = function getField(path) {
  let value;
  let fields = this.fields;
  for (const name of segments(path)) {
    value = fields?.[name];
    fields = value?.type === "map_value" ? value.value : undefined;
  }
  return value;
};

// ---- faults and the server --------------------------------------------------------------------------------------

function wrap(server, service, faults) {
  const takeFault = (method) => {
    const fault = faults.find((f) => f.method === method && (f.times === null || f.times > 0));
    if (fault && fault.times !== null) fault.times -= 1;
    return fault;
  };
  const failed = (fault) => new RpcError(status[fault.code], "injected fault");
  const delayed = async (fault) => {
    if (fault?.delay) await new Promise((resolve) => setTimeout(resolve, fault.delay * 1000));
    if (fault?.code && fault.when === "before") throw failed(fault);
  };
  const asRpcError = (error) => {
    if (!(error instanceof RpcError)) console.error(error);
    return { code: error.code ?? status.INTERNAL, details: error.details ?? "internal" };
  };

  for (const method of ["Commit", "BeginTransaction", "Rollback", "BatchWrite", "ListDocuments"]) {
    const { Empty } = require("@firestore-emulator/proto/dist/google/protobuf/empty");
    server.handlers.get(SERVICE + method).func = async (call, callback) => {
      const fault = takeFault(method);
      try {
        await delayed(fault);
        const answer = service[method](call.request) ?? new Empty({});
        if (fault?.code && fault.when === "after") throw failed(fault);
        callback(null, answer);
      } catch (error) {
        callback(asRpcError(error), null);
      }
    };
  }
  for (const method of ["BatchGetDocuments", "RunQuery"]) {
    server.handlers.get(SERVICE + method).func = async (call) => {
      const fault = takeFault(method);
      try {
        await delayed(fault);
        service[method](call.request, (message) => call.write(message));
        if (fault?.code && fault.when === "after") throw failed(fault);
        call.end();
      } catch (error) {
        call.emit("error", asRpcError(error));
      }
    };
  }
  const listen = server.handlers.get(SERVICE + "Listen");
  const real = listen.func;
  listen.func = (call) => {
    // A client that disconnects cancels the call, but the emulator only cleans up after a stream that ends.
    call.once("cancelled", () => call.emit("end"));
    real(call);
  };
}

async function start() {
  const emulator = new FirestoreServer();
  Object.setPrototypeOf(emulator.state, QueryableState.prototype);
  emulator.state.emitter.setMaxListeners(0);
  const service = new Service(emulator.state);
  const faults = [];
  wrap(emulator.server, service, faults);
  const port = await new Promise((resolve, reject) =>
    emulator.server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, bound) =>
      error ? reject(error) : resolve(bound),
    ),
  );
  return {
    port,
    addFault: (fault) => void faults.push({ ...fault }),
    clearFaults: () => void faults.splice(0),
    writes: () => service.journal,
    reset: () => {
      emulator.state.clear();
      service.transactions.clear();
      service.journal.length = 0;
      faults.length = 0;
    },
  };
}

module.exports = { start };

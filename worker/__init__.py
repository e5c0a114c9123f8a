"""The generation worker: one job in, pictures or a clip out, its document in step.

    handler.py      RunPod's adapter and the composition root
      task          the order of things, and the one place where an outcome is decided
        request     job["input"] -> one of five request models         values    what each kind of field may be
        params      -> nothing left open, and its cost                 identity  who asks
        admission   the document claimed, files and sources looked for
          record    the job's document as the task sees it             claim     what a job may do with it
            keeper  heartbeat, progress, a user's wishes               status    when it is written, and that it may be
            fields  what it says                                       documents the Protocol of a store of documents
          inputs    image_url, mask_url -> pictures, safely            recovery  files that are there already
        turn        the job's turn on the GPU                          gpu       the one thread that generates
          pipelines/  request -> pixels: the only importer of torch    stop      why a job is to end
        delivery    pixels -> files, inline if need be
          media, inline   encoders                                     storage   files -> objects and URLs
        result      the JSON that goes back
        outbox      results that wait for better times                 reaper    ends what lost workers left
      firebase      Google's clients behind our Protocols: firestore, bucket, google_errors
      config, logs, errors, generation (values and Protocols that the others share), progress

Imports run one way:
errors < config < request < fingerprint, params, generation, media, documents < identity, claim < fields, storage,
inputs < status < keeper < record, delivery < admission, turn < task < handler.
Nothing here imports torch, diffusers or Google's clients before a job needs them.
"""

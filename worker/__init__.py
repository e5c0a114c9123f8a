"""The generation worker: one job in, pictures or a clip out, its document in step.

    handler.py      RunPod's adapter and the composition root
      task          the order of things, and the one place where an outcome is decided
        request     job["input"] -> one of five request models        params    -> nothing left open, and its cost
        identity    whether the caller may act for the user whom the request names
        status      the job's Firestore document                      claim     what a job may do with it
        keeper      heartbeat, progress and a user's wishes            stop      why a job is to end
        inputs      image_url, mask_url -> pictures, safely           gpu       the one thread that generates
        pipelines/  request -> pixels: the only importer of torch     delivery  pixels -> files, inline if need be
          media, inline   encoders                                    storage   files -> objects and URLs
        result      the JSON that goes back                            recovery  files that are there already
        outbox      results that wait for better times                reaper    ends what lost workers left
      firebase      Google's clients behind the Protocols of status and storage
      config, logs, errors, generation (values and Protocols that the others share), progress

Imports run one way:
errors < config < request, params, generation, media < identity, claim, status, storage, inputs
< delivery < task < handler.
Nothing here imports torch, diffusers or Google's clients before a job needs them.
"""

"""Every text of an error that a caller can be told, by an id that stays. Knows no error classes and no transport.

`<error code>` is what an error says by itself, `<error code>.<what>` what it says of one case. Texts are read by app
developers and shown to users: no traceback, path, host, key, token or prompt goes into one, nor into a parameter.

This is the place for another language: a translation is another catalogue with the same ids and parameters.
"""

from collections.abc import Mapping

MESSAGES: Mapping[str, str] = {
    "invalid_input": "The request has fields that are not valid.",
    "invalid_input.fields": "{problems}",
    # Of one field: its name stands in front.
    "invalid_input.required": "is required for {task}",
    "invalid_input.unknown": "is not a known field",
    "invalid_input.unknown_but_close": "is not a known field; did you mean {close}?",
    "invalid_input.unknown_here": "is not a known field; {close} belongs to {owners}",
    "invalid_input.input_twice": "is not a known field; what is in it belongs one level up",
    "invalid_input.of_another_task": "is not a field of {task} (it belongs to {owners})",
    "invalid_input.of_another_task_but_close": (
        "is not a field of {task} (it belongs to {owners}); did you mean {close}?"
    ),
    "invalid_input.object": "must be an object with at least a prompt (got {got})",
    "invalid_input.whole_number": "must be a whole number (got {got})",
    "invalid_input.finite_number": "must be a finite number (got {got})",
    "invalid_input.string": "must be a string (got {got})",
    "invalid_input.boolean": "must be true or false (got {got})",
    "invalid_input.one_of": "must be one of {choices} (got {got})",
    "invalid_input.one_of_but_close": "must be one of {choices}; did you mean {close}? (got {got})",
    "invalid_input.size_in_pixels": "must be one of {choices}; a size in pixels is given by {sides} (got {got})",
    "invalid_input.at_least": "must be at least {least} (got {got})",
    "invalid_input.greater_than": "must be greater than {bound} (got {got})",
    "invalid_input.at_most": "must be at most {most} (got {got})",
    "invalid_input.length": "must have 1 to {most} characters (got {got})",
    "invalid_input.empty": "must not be empty; null says that it is not given",
    "invalid_input.too_long": "must have at most {most} characters (got {got})",
    "invalid_input.unicode": "must be valid Unicode text, the names of its fields too",
    "invalid_input.surrogate": "must be valid Unicode text (it holds a lone surrogate)",
    "invalid_input.identifier": (
        "must be 1 to 128 of the characters A-Z a-z 0-9 _ -, and not __like this__ (got {got})"
    ),
    "invalid_input.user_id": (
        "must be 1 to 128 of the characters A-Z a-z 0-9 _ - . : @ + |, and not . or .. or __like this__ (got {got})"
    ),
    "invalid_input.image_ref": (
        "must be an https:// URL, a data:image/...;base64, URI or a gs:// path of your own uploads (got {got})"
    ),
    "invalid_input.long_reference": "must have at most {most} characters unless it is inline data (got {got})",
    "invalid_input.no_reference": "{problem} (got {got})",
    "invalid_input.multiple": "must be a multiple of {of} (got {got})",
    "invalid_input.outpaint": "must be more than 0 on one side at least (left, right, up or down)",
    "invalid_input.outpaint_object": "must be an object of left, right, up and down, in pixels (got {got})",
    "invalid_input.outpaint_side": "is not a side; there are left, right, up and down",
    "invalid_input.list": "must be a list (got {got})",
    "invalid_input.list_length": "must have at most {most} entries (got {got})",
    "invalid_input.entry_object": "must be an object of {keys} (got {got})",
    "invalid_input.entry_key": "has no {got}; there are {keys}",
    "invalid_input.lora_path": "must be the name of a LoRA, a hub id or an https:// URL (got {got})",
    "invalid_input.weight_name": "must be the name of a .safetensors file in the repository (got {got})",
    "invalid_input.prompt_breaks": "{fields}: BREAK may stand in it at most {most} times (got {got})",
    "invalid_input.prompt_weight": "{fields}: a weight must be within -{most:g} and {most:g} (got {got})",
    "invalid_input.lora_unusable": "the LoRA {name} {problem}",
    # What is wrong with a LoRA, as a {problem}.
    "invalid_input.lora_pickle": (
        "is a pickled file, which can run code when it is read; only .safetensors files are taken"
    ),
    "invalid_input.lora_no_safetensors": "is not a .safetensors file",
    "invalid_input.lora_damaged": "has tensors that do not go together: the file is damaged",
    "invalid_input.lora_incomplete": "is not complete: it has {size} of {whole} bytes",
    "invalid_input.lora_tensors": "has {got} tensors; a LoRA has at most {most}",
    "invalid_input.lora_header": "has a header of {got} bytes; a LoRA's may have {most}",
    "invalid_input.lora_types": "has weights of the type {got}; floating-point numbers are read",
    "invalid_input.lora_rank": "has the rank {got}; the highest that is taken is {most}",
    "invalid_input.lora_other_kind": "is {kind}, which is not read; LoRA, LoCon, LoKr, LoHa and DoRA are",
    "invalid_input.lora_names": "has a tensor {got}, which is none of a LoRA",
    "invalid_input.lora_half": "has only one half of the weights for {got}",
    "invalid_input.lora_none": "has no low-rank weights",
    "invalid_input.lora_made_for": "is made for {found}; this takes one for {wanted}",
    "invalid_input.lora_unknown_model": "is made for a model that is not known here (it changes {got})",
    "invalid_input.lora_numbers": "has weights that are not finite numbers",
    "invalid_input.lora_no_layer": "changes no layer that this model has: it is made for another one",
    "invalid_input.lora_shape": (
        "is made for a model of another size: for {layer} it has {got}, and this model takes {want}"
    ),
    "invalid_input.lora_no_expert": "is for the {expert}-noise expert, and this model has one network for all noise",
    "invalid_input.lora_url_weight_name": "goes with a hub id alone; a URL names its file itself (got {got})",
    "invalid_input.no_lora": "is no LoRA of this worker; there are {choices} (got {got})",
    "invalid_input.no_lora_but_close": (
        "is no LoRA of this worker; did you mean {close}? There are {choices} (got {got})"
    ),
    "invalid_input.lora_source": "comes from {place}, where this worker takes no LoRA from; there are {choices}",
    "invalid_input.lora_weight_name": "goes with a hub id alone; the operator has chosen the file of {got}",
    "invalid_input.lora_family": "is a LoRA for {family}, which does not go with {task} (got {got})",
    "invalid_input.lora_bytes": "gives {what}, not a .safetensors file",
    "invalid_input.lora_no_file": "has no .safetensors file of that name; there are {choices}",
    "invalid_input.lora_no_files": "is a repository without a .safetensors file",
    "invalid_input.lora_several_files": "has several .safetensors files; say which one in weight_name: {choices}",
    "invalid_input.no_style": "is no style of this worker; there are {choices} (got {got})",
    "invalid_input.no_style_but_close": (
        "is no style of this worker; did you mean {close}? There are {choices} (got {got})"
    ),
    "invalid_input.style_task": "is a style for {tasks} (got {got})",
    "invalid_input.styled": "{problem}, once the style {style} is applied",
    "invalid_input.control_span": "start_percentage ({start}) must be less than end_percentage ({end})",
    "invalid_input.model_multiple": "must be a multiple of {of} for this model (got {got})",
    "invalid_input.model_scheduler": "must be one of {choices} for this model (got {got})",
    "invalid_input.own_scheduler": "must be null for this model, which runs with its own scheduler only (got {got})",
    "invalid_input.short_schedule": "must be at most {most} with the scheduler {scheduler} (got {got})",
    "invalid_input.frames": "must be 4k + 1; the nearest are {low} and {high} (got {got})",
    "invalid_input.too_many_pixels": "width x height may be at most {most} pixels (got {got})",
    "invalid_input.image_cost": "width x height x (steps + 1) x images may be at most {most} (got {got})",
    "invalid_input.upscale_cost": (
        "width x height x (steps + 1) x images, with all that is enlarged, may be at most {most} (got {got})"
    ),
    "invalid_input.video_cost": (
        "video_width x video_height x num_frames x (steps + 1) may be at most {most} (got {got})"
    ),
    "invalid_input.too_slow": (
        "the job would take about {seconds:,} s on this worker ({card}), which stops it after {limit:,} s; "
        "at most {steps} steps, or a smaller size (got {got})"
    ),
    "invalid_input.too_slow_at_any_steps": (
        "the job would take about {seconds:,} s on this worker ({card}), which stops it after {limit:,} s; "
        "ask for a smaller size, fewer frames or fewer images (got {got})"
    ),
    "invalid_input.step_too_long": (
        "one denoising step would take about {seconds:,} s on this worker ({card}), at most {most:,} s are allowed; "
        "ask for a smaller size or fewer frames (got {got})"
    ),
    "invalid_input.no_end_image": (
        "must be null: this model goes on from a picture and takes none to end with; Wan 2.2 I2V-A14B and "
        "Wan 2.1 FLF2V do (WAN_I2V_MODEL)"
    ),
    "invalid_input.no_experts": "must be empty: this model has one network for all noise, to which loras are added",
    "invalid_input.end_image": "is required by this model, which goes from a first picture to a last one",
    "invalid_input.upscale_factor": "must be 2 or 4 (got {got})",
    "invalid_input.upscaled_pixels": (
        "makes {width} x {height} = {pixels} pixels of this picture, and at most {most} are made here (got {got})"
    ),
    "invalid_input.format_side": (
        "has at most {most} pixels a side, and the picture becomes {width} x {height}; ask for png (got {got})"
    ),
    "invalid_input.no_image_model": (
        "needs an image model that draws details anew, and this worker has an upscaler only (SDXL_MODEL); leave it out"
    ),
    "invalid_input.no_controlnet": "needs a ControlNet, and this worker has none (CONTROLNET_MODEL)",
    "invalid_input.no_preprocessing": (
        "must be false for {got}: this worker makes control pictures of {choices} alone; send one made already"
    ),
    "invalid_input.no_refiner": "needs a refiner, and this worker has none (SDXL_REFINER)",
    "invalid_input.no_ip_adapter": "needs an IP-Adapter, and this worker has none (IP_ADAPTER_MODEL)",
    "invalid_input.too_many_bytes": "must hold at most {most} bytes (got {got})",
    "invalid_input.base64": "must be base64 after its comma, whole and without anything behind it",
    "invalid_input.base64_blanks": "has blanks inside its base64; a + that is sent in a form has to be written as %2B",
    "invalid_input.gs_without_firebase": "gs:// needs Firebase, which this worker has none of; use https://",
    "invalid_input.gs_without_user": "gs:// needs the user_id whose upload it is",
    "invalid_input.gs_path": "must be gs://<bucket>/uploads/<user_id>/<name>, a plain path",
    "invalid_input.gs_escaped": "must be the object's path as it is, with / and not %2F",
    "invalid_input.other": "{finding}",
    # Of several fields at once.
    "invalid_input.several_sizes": "{fields}: are several ways to say the same; give one of them",
    "invalid_input.owner": "{fields}: required when use_cloud_storage is true",
    # How what is no reference to a picture is described in a {problem}.
    "invalid_input.is_no_base64": "must have ;base64 before its comma, as in data:image/jpeg;base64,...",
    "invalid_input.is_bare_base64": "is base64 without its beginning; put data:image/jpeg;base64, in front",
    "invalid_input.is_http": "must be an https:// URL, not http://",
    "invalid_input.is_without_scheme": "is a URL without its beginning; put https: in front",
    "invalid_input.is_without_bucket": "is the path of an object; put gs:// and the bucket's name in front",
    "invalid_input.is_percent_encoded": "is percent-encoded as a whole; send it as it was before",
    "invalid_input.is_local_file": (
        "names a file of the caller's own device, which no server can read; upload it, or send it as a "
        "data:image/jpeg;base64, URI"
    ),
    # What came instead of a LoRA, as a {what}.
    "invalid_input.lora_is_html": "an HTML page (often one that asks for a login; send the URL of the file itself)",
    "invalid_input.lora_is_json": "a server's answer in JSON",
    "invalid_input.lora_is_pickle": "a pickled file, which can run code when it is read",
    "invalid_input.lora_is_gguf": "a file in the GGUF format",
    "invalid_input.lora_is_archive": "an archive or a pickled file (ZIP)",
    "invalid_input.lora_is_empty": "nothing",
    "invalid_input.lora_is_another": "bytes of another kind",
    # How a value is described in a {got}.
    "invalid_input.got_text": "{start} and {more} more characters",
    "invalid_input.got_object": "an object of {keys} keys",
    "invalid_input.got_list": "a list of {items} items",
    "invalid_input.got_number": "a number of {bits} bits",
    "unauthenticated": "This job needs a valid id_token of the signed-in user.",
    "unauthenticated.no_firebase": "this worker cannot check an id_token: no Firebase",
    "unauthenticated.no_proof": "this worker cannot check who asks",
    "unauthenticated.no_tickets": "id_token: is a ticket, and this worker takes none (TICKET_SECRET is not set)",
    "unauthenticated.ticket_expired": "the ticket in id_token has expired; ask the app's backend for a new one",
    "unauthenticated.ticket_early": "the ticket in id_token is from the future; check the backend's clock",
    "unauthenticated.ticket_invalid": "the ticket in id_token is not valid for this worker",
    "unauthenticated.ticket_lifetime": "the ticket in id_token must be valid for at most 25 hours",
    "unauthenticated.token_expired": "the id_token has expired; sign in again or refresh it",
    "unauthenticated.token_revoked": "the user of this id_token was signed out, disabled or deleted",
    "unauthenticated.token_invalid": "the id_token is not valid for this project",
    "forbidden": "The caller may not act for this user.",
    "forbidden.fields": "{problems}",
    "forbidden.user": "user_id: must be the user that the id_token belongs to",
    "forbidden.ticket_user": "user_id: must be the user that the ticket in id_token was made for",
    "forbidden.ticket_file": "file_uid: must be the one that the ticket in id_token was made for",
    "forbidden.ticket_request": (
        "the ticket in id_token was made for another request; nothing may be changed after signing"
    ),
    "forbidden.ticket_form": "the ticket in id_token cannot be for this request: it has no canonical form",
    "forbidden.bucket": (
        "{field}: must lie in this worker's own bucket; its name is the storageBucket of the app's Firebase settings"
    ),
    "forbidden.folder": "{field}: must lie under uploads/ or generating/ of the request's own user_id",
    "forbidden.unsafe": "the content safety check refused this result",
    "forbidden.unsafe_images": "the content safety check refused this result: {refused} of {count} images",
    "url_blocked": "The URL points where this worker does not go; use a public https:// URL.",
    "url_blocked.fields": "{problems}",
    "url_blocked.characters": (
        "{field}: must be a URL of at most {most} characters without control characters or backslashes"
    ),
    "url_blocked.unreadable": "{field}: is not a URL that can be read",
    "url_blocked.not_https": (
        "{field}: must be an https:// URL on the standard port, and so must what it redirects to"
    ),
    "url_blocked.host": "{field}: must be a URL with a host name and without a user name or password",
    "url_blocked.redirect": "{field}: redirects to something that is not a URL",
    "url_blocked.not_public": "{field}: leads to an address that is not public; use a public https:// URL",
    "download_failed": "The source image could not be downloaded.",
    "download_failed.fields": "{problems}",
    "download_failed.of_field": "{field}: {problem}",
    "download_failed.no_address": "{field}: its host name has no address",
    "download_failed.unreachable": "{field}: the server could not be reached or broke off",
    "download_failed.broke_off": "{field}: the server broke off",
    "download_failed.redirects": "{field}: redirects more than {most} times; use the final URL",
    "download_failed.status": "{field}: the server answered with status {status}",
    "download_failed.too_large": "{field}: is larger than the {most} bytes that are allowed",
    "download_failed.encoding": (
        "{field}: the server sent the file in a content encoding (such as br or zstd) that was not asked for"
    ),
    "download_failed.too_slow": "{field}: could not be downloaded within {seconds:g} seconds",
    "download_failed.out_of_time": (
        "{field}: the pictures of a job have {seconds:g} seconds together, downloads included, and these are over"
    ),
    "download_failed.object_too_large": "the source image has more than {most} bytes",
    "download_failed.object_encoded": (
        "the source image is stored with a content encoding (Content-Encoding); upload the file as it is"
    ),
    "download_failed.no_object": "there is no such source image in the bucket",
    "download_failed.not_completed": (
        "the source image is a result of a generation that is not completed, or whose document is gone"
    ),
    "download_failed.no_object_escaped": (
        "there is no such source image in the bucket; its path is taken as it is, so write {got} as the character "
        "that it stands for"
    ),
    "download_failed.hub_repository": (
        "{field}: the hub has no such repository or revision that anybody may read (status {status})"
    ),
    "download_failed.login": "{field}: the server gives the file only to who is signed in (status {status})",
    "download_failed.lora_gone": (
        "{field}: the file of the LoRA {name} was removed before it was read, to make room for others; try again"
    ),
    "download_failed.hub_answer": "{field}: the hub's answer could not be read; try again",
    "invalid_image": "The source image could not be read; send a JPEG, PNG, WebP, HEIC or AVIF.",
    "invalid_image.fields": "{problems}",
    "invalid_image.unreadable": (
        "{field}: the {kind} is damaged, or of a form that is not read; save it again as JPEG or PNG"
    ),
    "invalid_image.cut_off": (
        "{field}: the {kind} is cut off: the file ends before its pixels do; send the whole file"
    ),
    "invalid_image.reader_ended": (
        "{field}: the {kind} ended its reader: it is damaged, or takes too much memory; save it again as JPEG"
    ),
    "invalid_image.too_slow": (
        "{field}: could not be read within {seconds:g} seconds; make it smaller, or save it again as JPEG"
    ),
    "invalid_image.too_large": "{field}: is larger than the {most} bytes that are allowed",
    "invalid_image.too_many_pixels": "{field}: has {width} x {height} pixels; at most {most} in all are allowed",
    "invalid_image.too_long_side": "{field}: has {width} x {height} pixels; a side may have {most} at most",
    "invalid_image.too_many_pixels_of_kind": (
        "{field}: has {width} x {height} pixels; {kind} may have {most} in all; "
        "make it smaller, or send a baseline JPEG"
    ),
    "invalid_image.too_much_memory": (
        "{field}: takes more memory to read than {kind} may; make it smaller, or send a baseline JPEG"
    ),
    "invalid_image.too_many_scans": "{field}: is a JPEG of more than {most} scans; save it again",
    # What was sent instead of a picture.
    "invalid_image.another": (
        "{field}: is not a picture that can be read; send a JPEG, PNG, WebP, HEIC, AVIF, GIF, BMP or TIFF"
    ),
    "invalid_image.empty": "{field}: is empty; the upload or the server gave no bytes",
    "invalid_image.html": "{field}: is an HTML page, not a picture; send the URL of the file itself",
    "invalid_image.svg": "{field}: is SVG, a drawing without pixels; export it as PNG",
    "invalid_image.xml": "{field}: is an XML document, often a server's error, not a picture; send the file's own URL",
    "invalid_image.json": "{field}: is JSON, often a server's error, not a picture; send the URL of the file itself",
    "invalid_image.base64": "{field}: is base64 text, not a picture; it was encoded twice, or stored undecoded",
    "invalid_image.text": "{field}: is text, not a picture; send the file itself",
    "invalid_image.video": "{field}: is a video, not a picture; send a frame of it, or the photo beside it, as JPEG",
    "invalid_image.sound": "{field}: is a sound, not a picture",
    "invalid_image.pdf": "{field}: is a PDF, not a picture; export the page as PNG",
    "invalid_image.postscript": "{field}: is PostScript or EPS, not a picture; export it as PNG",
    "invalid_image.raw": "{field}: is a camera's RAW file (DNG, CR2, NEF or the like); export it as JPEG or HEIC",
    "invalid_image.jpeg_xl": "{field}: is JPEG XL, which is not read; save it as JPEG, WebP or AVIF",
    "invalid_image.jpeg_2000": "{field}: is JPEG 2000, which is not read; save it as JPEG or PNG",
    "invalid_image.photoshop": "{field}: is a Photoshop document; export it as PNG or JPEG",
    "invalid_image.icon": "{field}: is an icon file (ICO), which is not read; save it as PNG",
    "invalid_image.archive": "{field}: is an archive (ZIP or the like); send the picture in it",
    "invalid_image.compressed": "{field}: is a compressed file (gzip or the like); send it uncompressed",
    "idempotency_mismatch": "This file_uid already belongs to another request; use a new file_uid.",
    "idempotency_mismatch.name_taken": (
        "a file of this name belongs to another generation (file_uid a_0 and the first of several images of a share "
        "one), and the result is too large to be returned; use a new file_uid"
    ),
    "duplicate_in_progress": "Another job is already working on this file_uid.",
    "deleted": "The document was deleted while the job ran; nothing was kept.",
    "model_unavailable": "No model is configured for this task.",
    "model_unavailable.task": "this worker does not serve {task}; it serves {tasks}",
    "model_unavailable.no_downloads": (
        "the weights that {variable} names are not on this worker, and none are downloaded while a job waits"
    ),
    "model_unavailable.no_configs": (
        "the single file that {variable} names needs the configuration of {configs}, which is not on this worker, and "
        "nothing is downloaded while a job waits (ALLOW_DOWNLOADS=false)"
    ),
    "model_unavailable.not_here": "the weights of this model are not on this worker",
    "model_unavailable.not_downloaded": (
        "the weights of this model are not on this worker and could not be downloaded"
    ),
    "model_unavailable.unreadable": "the weights of this model could not be read; the worker's log says why",
    "model_unavailable.lora_missing": "the file of the LoRA {name} is not on this worker",
    "model_unavailable.lora_files": "the folder of the LoRA {name} must hold one .safetensors file, or LORAS say which",
    "model_unavailable.lora_hash": "the file of the LoRA {name} is not the one whose sha256 LORAS names",
    "model_unavailable.checker": "{variable}: {problem}",
    "model_unavailable.pickled_only": (
        "{repository} has no .safetensors weights of this kind, and pickles are not read; name another repository, or "
        "leave the variable empty for its default"
    ),
    "model_unavailable.checker_incomplete": "the weights of the safety checker are not complete",
    "model_unavailable.img2video": (
        "no model is configured for img2video; set WAN_I2V_MODEL "
        "(or WAN_MODEL to a checkpoint that does both, such as Wan 2.2 TI2V)"
    ),
    "model_unavailable.not_image_to_video": (
        "{variable} is not an image-to-video checkpoint, so it cannot serve {task}"
    ),
    "model_unavailable.not_text_to_video": "{variable} is not a text-to-video checkpoint, so it cannot serve {task}",
    "model_unavailable.refiner_demo": "SDXL_REFINER does not go with SDXL_MODEL: only one of them is demo",
    "model_unavailable.ip_adapter_demo": "IP_ADAPTER_MODEL does not go with {variable}: only one of them is demo",
    "model_unavailable.ip_adapter_width": (
        "IP_ADAPTER_MODEL does not go with {variable}: it is for a model whose prompt is {got} wide, not {wanted}"
    ),
    "model_unavailable.refiner_encoder": "SDXL_REFINER does not go with SDXL_MODEL: it reads another text encoder",
    "model_unavailable.controlnet_demo": "CONTROLNET_MODEL can be demo only where SDXL_MODEL is demo",
    "model_unavailable.controlnet_type": (
        "CONTROLNET_MODEL names a ControlNet of one type; say which, as in canny=org/name"
    ),
    "model_unavailable.controlnet_unet": "CONTROLNET_MODEL does not go with SDXL_MODEL: it is for another UNet",
    "model_unavailable.no_depth": (
        "is not a Depth Anything (its config.json does not name DepthAnythingForDepthEstimation)"
    ),
    "model_unavailable.no_controlnet": (
        "is not a ControlNet in diffusers' names: a folder or repository with config.json and "
        "diffusion_pytorch_model.safetensors, or with ProMax's config_promax.json and "
        "diffusion_pytorch_model_promax.safetensors, or one .safetensors file is read"
    ),
    "model_unavailable.file_configs": (
        "SDXL_MODEL is a single file, and the configuration and tokenizer files that go with it are not here "
        "(those of stabilityai/stable-diffusion-xl-base-1.0)"
    ),
    "model_unavailable.vae_configs": "SDXL_VAE is a single file, and the configuration that goes with it is not here",
    "model_unavailable.parts": "{variable} names a model without {missing}",
    "model_unavailable.incomplete": (
        "{variable} names a model whose {part} has tensors that are missing or of another shape"
    ),
    "model_unavailable.class": "the model names a part this worker does not run ({name})",
    "model_unavailable.value": (
        "{variable} must be a hub id (org/name, or org/name@revision), a folder, a .safetensors file or demo"
    ),
    "model_unavailable.no_demo": "{variable} cannot be demo",
    "model_unavailable.no_file": "{variable} must be a hub id or a folder; it does not load from a single file",
    "model_unavailable.file_missing": "{variable} names a file that is not there",
    "model_unavailable.file_cut_off": "{variable} names a file that is not all there: a download or copy was cut off",
    "model_unavailable.file": "{variable} names a file that {problem}",
    # How a {problem} of a file is described.
    "model_unavailable.is_no_safetensors": "is not in the safetensors format",
    "model_unavailable.is_upscaler_pickle": (
        "is pickled, which can run code when it is read; convert it to safetensors on a machine of your own: "
        'from safetensors.torch import save_file; save_file(torch.load("x.pth", weights_only=True), "x.safetensors"), '
        "where the tensors may lie under params_ema"
    ),
    "model_unavailable.is_no_upscaler": "holds {what}; ESRGAN's RRDBNet and SRVGGNetCompact, x2 ... x8, are run here",
    "model_unavailable.has_several_files": "has several .safetensors files; name one of them ({names})",
    "model_unavailable.is_unknown_network": "no network that is known here",
    "model_unavailable.is_pickle": "is pickled, which can run code when it is read; convert it to safetensors",
    "model_unavailable.is_gguf": "is in the GGUF format; only safetensors is read",
    "model_unavailable.is_lora": "holds a LoRA; name the checkpoint that it is for",
    "model_unavailable.is_controlnet": "holds a ControlNet, not a whole checkpoint",
    "model_unavailable.is_another": "holds a {model} model, not SDXL",
    "model_unavailable.is_refiner": "holds an SDXL refiner; SDXL_REFINER takes one, as a hub id or a folder",
    "model_unavailable.is_edit": "holds a model that edits pictures by instruction (a UNet of 8 channels)",
    "model_unavailable.is_scaled": "holds scaled fp8 weights; name a file in fp16 or plain fp8",
    "model_unavailable.is_part": "holds no whole SDXL checkpoint in the original layout",
    "model_unavailable.is_without_encoders": "has no text encoders; name a checkpoint that has all of its parts",
    "model_unavailable.is_without_vae": "has no VAE; name one in SDXL_VAE",
    "model_unavailable.folder_missing": "{variable} names a folder that is not there",
    "model_unavailable.folder": "{variable} names a folder that {problem}",
    "model_unavailable.demo_folder": "{variable} names the built-in demo model, whose folder {problem}",
    # How a folder's {problem} is described.
    "model_unavailable.no_vae": "is not an SDXL VAE (its config.json does not name AutoencoderKL)",
    "model_unavailable.no_preview": (
        "is not a tiny autoencoder for SDXL (an AutoencoderTiny of four latent channels in diffusers' layout, "
        "such as madebyollin/taesdxl)"
    ),
    "model_unavailable.no_checker": (
        "is not a safety checker (its config.json does not name StableDiffusionSafetyChecker)"
    ),
    "model_unavailable.no_preprocessor": "has no preprocessor_config.json",
    "model_unavailable.no_ip_adapter": "has no IP-Adapter for SDXL (sdxl_models/ip-adapter*_sdxl*.safetensors)",
    "model_unavailable.no_safe_ip_adapter": "has its IP-Adapter pickled only (.bin); name one in safetensors",
    "model_unavailable.no_image_encoder": (
        "has no image encoder of its width ({width}) beside the IP-Adapter (models/image_encoder)"
    ),
    "model_unavailable.is_face_id": "has an IP-Adapter that identifies faces (FaceID), which this worker does not run",
    "model_unavailable.no_index": "is not a model in diffusers' layout (no model_index.json)",
    "model_unavailable.no_index_but_file": (
        "is not a model in diffusers' layout (no model_index.json); name the .safetensors file that lies in it"
    ),
    "model_unavailable.no_index_there": (
        "{repository} is not in diffusers' layout (no model_index.json); of Wan name the one that ends in -Diffusers"
    ),
    "model_unavailable.no_part": "has no {part}: a download or copy was cut off",
    "model_unavailable.closed": (
        "{variable} names what this worker's user may not read: chmod -R a+rX opens it, or an image with RUN_AS=root"
    ),
    "model_unavailable.no_weights": "has no .safetensors weights (diffusion_pytorch_model or model, or with .fp16)",
    "model_unavailable.no_weights_of": (
        "has no .safetensors weights for its {part} (diffusion_pytorch_model or model, or with .fp16)"
    ),
    "model_unavailable.cut_off": "has only a part of its weights: a download or copy was cut off",
    "model_unavailable.cut_off_of": "has only a part of the weights of its {part}: a download or copy was cut off",
    "model_unavailable.kind": "holds another kind of model (not one of {kinds})",
    "model_unavailable.inpainting_only": "holds an inpainting-only UNet; the plain one serves all three image tasks",
    "out_of_memory": "The card ran out of memory; ask for a smaller size, fewer frames or fewer images.",
    "out_of_memory.worker": "the worker ran out of memory; ask for a smaller size, fewer frames or fewer images",
    "out_of_memory.too_large": "this size does not fit: {reason}; ask for a smaller size or fewer frames",
    "gpu_fault": "The card or its driver failed; the worker is being replaced.",
    "gpu_fault.driver": (
        "the GPU's driver is missing or too old for this worker; in the endpoint's settings allow only the CUDA "
        "versions of .runpod/hub.json"
    ),
    "gpu_fault.no_answer": "the generation did not answer any more; the worker is being replaced",
    "storage_unavailable": "The result could not be stored.",
    "storage_unavailable.source": "the source image could not be read from the bucket; try again",
    "storage_unavailable.kept": "the upload failed; the result is kept and will be delivered later",
    "storage_unavailable.not_kept": "the upload failed, and the result is too large to be returned; try again",
    "result_too_large": "The result does not fit into a response; ask for cloud storage or a smaller result.",
    "result_too_large.response": "the result has {size} bytes and at most {most} can be returned; use cloud storage",
    "result_too_large.images": (
        "the images take {size} in the response and {left} are left for it; "
        "use use_cloud_storage or ask for a smaller result"
    ),
    "result_too_large.video": (
        "the video takes {size} in the response and {left} are left for it; "
        "use use_cloud_storage or ask for a smaller result"
    ),
    "disk_full": "The worker's disk is full.",
    "timeout": "The job took longer than this worker allows.",
    "timeout.limit": "the job took longer than {seconds:g} s; ask for fewer steps, frames or pixels",
    "superseded": "A newer attempt of this job has taken over.",
    "poison_job": "This job has ended several workers before it could finish and is not tried again.",
    "internal": "The worker met an error it did not expect.",
    "internal.unexpected": "the worker met an unexpected error (reference {reference})",
    "internal.identity": "the id_token could not be checked right now; try again",
    "internal.no_picture": (
        "the model gave no usable picture (its numbers were not finite, or every pixel was the same)"
    ),
    "internal.no_verdict": "the content safety check gave no answer",
    "internal.encoder": "The video could not be encoded.",
    "internal.no_encoder": "The worker has no video encoder.",
    "internal.no_decoder": "The worker's picture decoder does not start.",
    "cancelled": "the job was cancelled",
}


def text(message_id: str, /, **params: object) -> str:
    """The catalogue's text with its parameters filled in."""
    return MESSAGES[message_id].format(**params)

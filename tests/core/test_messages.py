"""The catalogue of messages: stable ids, one text each, and exactly the parameters that the worker passes."""

import ast
import re
import string
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from worker.core import errors
from worker.core.errors import ERROR_CODES
from worker.core.messages import MESSAGES, text

WORKER = Path(errors.__file__).parents[1]
CODES: dict[str, str] = {
    name: kind.code
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.JobError | errors.Cancelled)
}
PLACES = dict.fromkeys((*CODES, "__init__", "finding", "text"), 0) | {"FieldProblem": 1}
"""Callables that take an id -> the position of that argument."""
ID = re.compile(r"[a-z_]+(\.[a-z0-9_]+)?")

IDS = """
    cancelled
    deleted
    disk_full
    download_failed
        .broke_off .encoding .fields .no_address .no_object .no_object_escaped .object_encoded .object_too_large
        .of_field
        .out_of_time .redirects .status .too_large .too_slow .unreachable
        .hub_answer .hub_repository .login .lora_gone .not_completed
    duplicate_in_progress
    forbidden
        .bucket .fields .folder .ticket_file .ticket_form .ticket_request .ticket_user .unsafe .unsafe_images .user
    gpu_fault
        .driver .no_answer
    idempotency_mismatch
        .name_taken
    internal
        .encoder .identity .no_decoder .no_encoder .no_picture .no_verdict .unexpected
    invalid_image
        .another .archive .base64 .compressed .cut_off .empty .fields .html .icon .jpeg_2000 .jpeg_xl .json .pdf
        .photoshop .postscript .raw .reader_ended .sound .svg .text .too_large .too_long_side .too_many_pixels
        .too_many_pixels_of_kind .too_many_scans .too_much_memory .too_slow .unreadable .video .xml
    invalid_input
        .at_least .at_most .base64 .base64_blanks .boolean .control_span .empty .end_image .entry_key .entry_object
        .fields .finite_number .format_side .frames .got_list .got_number .got_object .got_text .greater_than
        .gs_escaped .gs_path .gs_without_firebase .gs_without_user .identifier .image_cost .image_ref .input_twice
        .is_bare_base64
        .is_http .is_local_file .is_no_base64 .is_percent_encoded .is_without_bucket .is_without_scheme .length .list
        .list_length .long_reference .lora_bytes .lora_damaged .lora_family .lora_half .lora_incomplete
        .lora_is_another .lora_is_archive .lora_is_empty .lora_is_gguf .lora_is_html .lora_is_json .lora_is_pickle
        .lora_made_for .lora_names .lora_no_expert .lora_no_file .lora_no_files .lora_no_layer .lora_no_safetensors
        .lora_none .lora_numbers .lora_other_kind .lora_path .lora_pickle .lora_rank .lora_several_files .lora_shape
        .lora_header .lora_source .lora_tensors .lora_types .lora_unknown_model .lora_unusable .lora_url_weight_name
        .lora_weight_name .model_multiple .model_scheduler .multiple .no_controlnet .no_end_image .no_experts
        .no_image_model
        .no_ip_adapter .no_lora .no_lora_but_close .no_preprocessing .no_reference .no_refiner .no_style
        .no_style_but_close .object .of_another_task .of_another_task_but_close .one_of .one_of_but_close .other
        .outpaint .outpaint_object .outpaint_side .own_scheduler .owner .prompt_breaks .prompt_weight .required
        .several_sizes .short_schedule .size_in_pixels .step_too_long .string .style_task .styled .surrogate .too_long
        .too_many_bytes .too_many_pixels .too_slow .too_slow_at_any_steps .unicode .unknown .unknown_but_close
        .unknown_here .upscale_cost .upscale_factor .upscaled_pixels .user_id .video_cost .weight_name .whole_number
    model_unavailable
        .checker .checker_incomplete .class .closed .controlnet_demo .controlnet_type .controlnet_unet .cut_off
        .cut_off_of
        .demo_folder .file .file_configs .file_cut_off .file_missing .folder .folder_missing .has_several_files
        .img2video .incomplete .inpainting_only .ip_adapter_demo .ip_adapter_width .is_another .is_controlnet .is_edit
        .is_face_id .is_gguf .is_lora .is_no_safetensors .is_no_upscaler .is_part .is_pickle .is_refiner .is_scaled
        .is_unknown_network .is_upscaler_pickle .is_without_encoders .is_without_vae .kind .lora_files .lora_hash
        .lora_missing .no_checker .no_configs .no_controlnet .no_demo .no_depth .no_downloads .no_file .no_image_encoder
        .no_index .no_index_but_file .no_index_there
        .no_ip_adapter .no_part .no_preprocessor .no_preview .no_safe_ip_adapter .no_vae .no_weights
        .no_weights_of .not_downloaded .not_here .not_image_to_video .not_text_to_video .parts .pickled_only
        .refiner_demo .refiner_encoder .task .unreadable .vae_configs .value
    out_of_memory
        .too_large .worker
    poison_job
    result_too_large
        .images .response .video
    storage_unavailable
        .kept .not_kept .source
    superseded
    timeout
        .limit
    unauthenticated
        .no_firebase .no_proof .no_tickets .ticket_early .ticket_expired .ticket_invalid .ticket_lifetime
        .token_expired
        .token_invalid .token_revoked
    url_blocked
        .characters .fields .host .not_https .not_public .redirect .unreadable
"""
"""All ids, each `.what` below its code. Translations are keyed by them: none may be renamed or dropped in passing."""


def _ids() -> Iterator[str]:
    code = ""
    for word in IDS.split():
        code = code if word.startswith(".") else word
        yield code + word if word.startswith(".") else word


def _named(call: ast.Call) -> Iterator[str]:
    """Yield the ids that a call names; a literal text is none."""
    place = PLACES.get(_callee(call), len(call.args))
    for argument in call.args[place : place + 1]:
        for branch in (argument.body, argument.orelse) if isinstance(argument, ast.IfExp) else (argument,):
            if isinstance(branch, ast.Constant) and isinstance(branch.value, str) and ID.fullmatch(branch.value):
                yield branch.value


def _callee(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


@cache
def _calls() -> dict[str, list[tuple[str, ast.Call]]]:
    """Return id -> the places that use it, and their calls."""
    found = defaultdict(list)
    for path in sorted(WORKER.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                for message_id in _named(node):
                    found[message_id].append((f"{path.relative_to(WORKER)}:{node.lineno}", node))
    return dict(found)


def _parameters(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


def _code(call: ast.Call) -> str | None:
    """Return the code of an error that this call makes; None: as the id says."""
    return "invalid_input" if _callee(call) in {"FieldProblem", "finding"} else CODES.get(_callee(call))


def _is_plain(template: str) -> bool:
    one_line = template.strip() == template != "" and "\n" not in template
    return one_line and all(name.isidentifier() for name in _parameters(template))


def test_the_ids_are_these() -> None:
    assert sorted(MESSAGES) == sorted(_ids())


def test_every_code_has_a_message_of_its_own_without_parameters() -> None:
    assert {message_id for message_id in MESSAGES if "." not in message_id} == ERROR_CODES
    assert not any(_parameters(MESSAGES[code]) for code in ERROR_CODES)


def test_the_worker_names_no_other_id_and_every_one_of_these() -> None:
    assert set(_calls()) | ERROR_CODES == set(MESSAGES)


def test_every_message_is_given_exactly_its_parameters() -> None:
    wrong = [
        (message_id, where)
        for message_id, calls in _calls().items()
        for where, call in calls
        if {keyword.arg for keyword in call.keywords} - {"retryable"} != _parameters(MESSAGES[message_id])
    ]
    assert wrong == []


def test_every_error_says_what_its_own_code_has() -> None:
    wrong = [
        (message_id, where)
        for message_id, calls in _calls().items()
        for where, call in calls
        if _code(call) not in {message_id.partition(".")[0], None}
    ]
    assert wrong == []


def test_every_text_is_one_line_of_plain_words_with_named_parameters() -> None:
    assert [message_id for message_id, template in MESSAGES.items() if not _is_plain(template)] == []


def test_a_value_with_braces_is_no_template() -> None:
    assert text("invalid_input.string", got="{got.__class__}") == "must be a string (got {got.__class__})"

"""What stands beside the SavedModel for a server: its configuration, and how to start it."""

from __future__ import annotations

import contextlib
import importlib.metadata

from ...artifacts.convention import SAMPLING
from ...artifacts.manifest import Manifest, ProgramName, SavedModelRecord
from ...artifacts.serving.signatures import (
    IDLE_SECONDS,
    MODEL_NAME,
    SignatureName,
    saved_model_programs,
)

MODELS_CONFIG = "models.config"
BATCHING_CONFIG = "batching.config"
README = "README.md"
_MODELS_FOLDER = "/models"  # of the server's container
_SINGLE_CALLS = (ProgramName.ENCODE_IMAGE,)


def deployment_files(manifest: Manifest, record: SavedModelRecord) -> dict[str, str]:
    """The text of each file, by its name in the folder of the SavedModel."""
    batches = _batches(manifest)
    return {
        MODELS_CONFIG: _models_config(),
        BATCHING_CONFIG: _batching_config(batches),
        README: _readme(manifest, record, batches),
    }


def _batches(manifest: Manifest) -> tuple[int, ...]:
    programs = saved_model_programs(manifest)
    return tuple(
        sorted({p.bucket.batch for p in programs if p.bucket.program not in _SINGLE_CALLS})
    )


def _models_config() -> str:
    """A ModelServerConfig in protobuf's text form."""
    return f"""model_config_list {{
  config {{
    name: "{MODEL_NAME}"
    base_path: "{_MODELS_FOLDER}/{MODEL_NAME}"
    model_platform: "tensorflow"
  }}
}}
"""


def _batching_config(batches: tuple[int, ...]) -> str:
    """A BatchingParameters in protobuf's text form: only batches that there are programs for.

    Requests of different widths are padded to the widest; their lengths say what is padding.
    One batch runs at a time: a second would share the same cores.
    """
    lines = [
        f"max_batch_size {{ value: {batches[-1]} }}",
        "batch_timeout_micros { value: 2000 }",
        "max_enqueued_batches { value: 64 }",
        "num_batch_threads { value: 1 }",
        *(f"allowed_batch_sizes: {batch}" for batch in batches),
        "pad_variable_length_inputs: true",
    ]
    return "\n".join(lines) + "\n"


def _readme(manifest: Manifest, record: SavedModelRecord, batches: tuple[int, ...]) -> str:
    names = {signature.name for signature in record.signatures}
    sections = [
        _START.format(
            model=manifest.model.name, name=MODEL_NAME, models=_MODELS_FOLDER,
            tensorflow=_tensorflow_version(), call=_call(names),
            signatures="\n".join(f"- `{name}`" for name in sorted(names)),
        )
    ]  # fmt: skip
    if batches[-1] > 1:
        sections.append(_BATCHING.format(batches=", ".join(map(str, batches))))
    if record.slots:
        sections.append(_SLOTS.format(slots=record.slots, idle=IDLE_SECONDS))
    return "\n".join(sections)


def _tensorflow_version() -> str:
    """Of the TensorFlow that writes the SavedModel, under either name of its package."""
    for name in ("tensorflow", "tensorflow-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    raise AssertionError("check_saved_model has found TensorFlow, its package has another name")


def _call(names: set[str]) -> str:
    """A request that the model answers, as curl sends it."""
    if SignatureName.GENERATE not in names:
        inputs = '"tokens": [[2, 17, 18]], "lengths": [3]'
    else:
        sampling = ", ".join(f'"{each.name}": [{each.default}]' for each in SAMPLING)
        inputs = (
            '"tokens": [[2, 17, 18]], "lengths": [3], "max_new_tokens": [16],\n'
            f'  "stop_tokens": [[1]], {sampling}'
        )
    return inputs


_START = """# {model} for TensorFlow Serving

`1/` is a TensorFlow SavedModel of one device; a new export goes beside it as `2/`. Tokens go in
and tokens come out; `gemma3-run BUNDLE --server HOST:PORT` makes them of text and back.

With docker, from this folder:

```
docker run --rm -p 8500:8500 -p 8501:8501 \\
  -v "$PWD:{models}/{name}:ro" \\
  tensorflow/serving:{tensorflow} \\
  --model_config_file={models}/{name}/models.config --xla_cpu_compilation_enabled=true
```

The programs were made with TensorFlow {tensorflow}: a server of that version or a newer one reads
them, an older one may not. `--xla_cpu_compilation_enabled` is needed on CPU, as the programs are
compiled there; on a GPU take the image's GPU variant, and an export with `--platform cuda`.

Port 8500 speaks gRPC, 8501 REST:

```
curl -s http://localhost:8501/v1/models/{name}:predict -d '{{"inputs": {{
  {call}
}}}}'
```

In Kubernetes, with this folder on a volume claim named `{name}`:

```
kubectl apply -f - <<'EOF'
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      containers:
      - name: serving
        image: tensorflow/serving:{tensorflow}
        args:
        - --model_config_file={models}/{name}/models.config
        - --xla_cpu_compilation_enabled=true
        ports: [{{containerPort: 8500}}, {{containerPort: 8501}}]
        volumeMounts: [{{name: model, mountPath: {models}/{name}, readOnly: true}}]
        readinessProbe: {{httpGet: {{path: /v1/models/{name}, port: 8501}}}}
      volumes:
      - name: model
        persistentVolumeClaim: {{claimName: {name}}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: grpc, port: 8500}}, {{name: rest, port: 8501}}]
EOF
```

The server is ready once the requests in `1/assets.extra/tf_serving_warmup_requests` have run: each
bucket is compiled then, not when a user comes. Signatures, as the manifest describes them:

{signatures}
"""

_BATCHING = """
## Batching

Programs are compiled for {batches} rows. To put requests that come together into one call, add
`--enable_batching --batching_parameters_file=/models/gemma3/batching.config`. Requests are then
padded to the widest, which their `lengths` make harmless. Calls that name a slot, and
`generate_images`, must not be batched: leave batching off where they are used.
"""

_SLOTS = """
## Slots

The SavedModel keeps the caches of {slots} texts between calls. `prefill_slot` takes a text in and
gives the slot, its owner number and the first token; `decode_slot` continues it and carries no
cache; `release_slot` gives the slot back. The contract:

- one call at a time for a slot; another meanwhile is refused as busy. Different slots may be called
  at the same time;
- every call names the owner number that `prefill_slot` gave. A call with another, or on a slot
  that is free, is refused, and the slot does not change;
- a slot that nobody called for {idle} seconds may be given to the next `prefill_slot`; its old
  owner is refused from then on;
- slots live in one server process: send all calls of a text to the same replica (in Kubernetes one
  replica, or clients that keep their connection), and expect none to survive a restart;
- owner numbers keep mistakes apart. They are no protection against an attacker who can call the
  server: put that in front of it.
"""

"""Protobuf bodies of Tinker's API, from the server's side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tinker
from tinker.proto import tinker_public_pb2 as pb

DTYPES = {pb.DTYPE_FLOAT32: "float32", pb.DTYPE_INT64: "int64"}


def read_data(request: pb.ForwardBackwardRequest) -> list[tinker.Datum]:
    return [
        tinker.Datum(
            model_input=tinker.ModelInput.from_ints(
                np.concatenate(
                    [np.frombuffer(chunk.encoded_text.tokens, np.int32) for chunk in datum.model_input]
                ).tolist()
            ),
            loss_fn_inputs={name: _read_tensor(tensor) for name, tensor in datum.loss_fn_inputs.items()},
        )
        for datum in request.data
    ]


def _read_tensor(tensor: pb.Tensor) -> tinker.TensorData:
    dtype = DTYPES[tensor.dtype]
    values = np.frombuffer(tensor.dense, dtype)
    return tinker.TensorData(data=values, dtype=dtype, shape=list(tensor.shape))


def write_output(output: tinker.ForwardBackwardOutput) -> bytes:
    """One record: each field's values one datum's after another's, and where each begins, in bytes."""
    record = pb.ArrayRecord(num_datums=len(output.loss_fn_outputs))
    for name in output.loss_fn_outputs[0]:
        values_D = [fields[name].to_numpy().astype(np.float32) for fields in output.loss_fn_outputs]
        record.fields[name].CopyFrom(
            pb.BatchedTensor(
                data=b"".join(values.tobytes() for values in values_D),
                offsets=np.cumsum([0, *(values.nbytes for values in values_D)], dtype=np.int64).tobytes(),
                dtype=pb.DTYPE_FLOAT32,
                trailing_shape=values_D[0].shape[1:],
            )
        )
    message = pb.ForwardBackwardOutput(loss_fn_output_type="ArrayRecord", loss_fn_outputs=[record])
    message.metrics.update(output.metrics)
    return message.SerializeToString()


def write_sample(response: tinker.SampleResponse) -> bytes:
    message = pb.SampleResponse()
    for sequence in response.sequences:
        message.sequences.add(
            stop_reason={"stop": pb.STOP_REASON_STOP, "length": pb.STOP_REASON_LENGTH}[sequence.stop_reason],
            tokens=np.array(sequence.tokens, np.int32).tobytes(),
            logprobs=np.array(sequence.logprobs, np.float32).tobytes(),
        )
    if response.prompt_logprobs is not None:
        message.prompt_logprobs = np.array(response.prompt_logprobs, np.float32).tobytes()  # None: NaN
    return message.SerializeToString()


Writer = Callable[[Any], "bytes | dict[str, Any]"]

"""Our clients have the methods of the SDK's, which take the same; what can't be here is one line."""

import asyncio
import inspect
import pickle
import subprocess
import sys

import pytest
import tinker
import torch

import cookbook_plugin_local as local
from cookbook.errors import BackendError
from cookbook_plugin_local.machine import Options
from cookbook_plugin_local.sampling_client import SamplingClient
from cookbook_plugin_local.training_client import TrainingClient

CLIENTS = {
    tinker.ServiceClient: local.ServiceClient,
    tinker.TrainingClient: TrainingClient,
    tinker.SamplingClient: SamplingClient,
    tinker.RestClient: local.RestClient,
}

REFUSED = {
    tinker.ServiceClient: ["copy_weights", "holder"],
    tinker.TrainingClient: ["save_weights_external"],
    tinker.SamplingClient: ["create", "from_sampler_handle", "get_sampler_handle", "on_queue_state_change"],
    tinker.RestClient: [
        "assign_session_project",
        "copy_weights",
        "export_session_trace",
        "get_audit_log",
        "get_billing_usage",
        "get_current_checkpoint_storage_usage",
        "get_external_weights_urls",
        "get_sampler",
        "get_session",
        "list_sessions",
        "publish_checkpoint_from_tinker_path",
        "search_sessions",
        "unpublish_checkpoint_from_tinker_path",
        "whoami",
    ],
}
"""All that the SDK has and one machine hasn't."""


@pytest.fixture
def clients(tmp_path, folder):
    options = Options(torch.float32, 256, 8.0)
    with local.ServiceClient(run_dir=tmp_path / "run", options=options) as service:
        client = service.create_lora_training_client(str(folder), rank=4, seed=0).result()
        sampler = client.save_weights_and_get_sampling_client().result()
        yield dict(zip(CLIENTS, (service, client, sampler, service.create_rest_client()), strict=True))


def public(cls):
    return {name: member for name, member in inspect.getmembers_static(cls) if not name.startswith("_")}


def parameters(function):
    function = function.__func__ if isinstance(function, staticmethod) else function
    return {p.name: (p.kind, p.default) for p in inspect.signature(function).parameters.values()}


@pytest.mark.parametrize("sdk", CLIENTS)
def test_every_public_method_of_the_sdk_is_there_and_takes_what_the_sdks_takes(sdk):
    ours = CLIENTS[sdk]
    assert set(public(sdk)) <= set(public(ours))
    for name, theirs in {**public(sdk), "__init__": sdk.__init__}.items():
        if callable(theirs) and (name != "__init__" or sdk in (tinker.ServiceClient, tinker.RestClient)):
            mine, sdks = (parameters(f) for f in (inspect.getattr_static(ours, name), theirs))
            assert list(mine)[: len(sdks) - 1] == list(sdks)[:-1], name
            assert {key: mine[key] for key in sdks} == sdks, name
            extra = {key: kind for key, (kind, _) in mine.items() if key not in sdks}
            assert all(kind is inspect.Parameter.KEYWORD_ONLY for kind in extra.values()), name


@pytest.mark.parametrize("sdk", CLIENTS)
def test_the_older_forms_are_coroutines(sdk):
    for name in public(sdk):
        if name.endswith("_async"):
            assert inspect.iscoroutinefunction(getattr(CLIENTS[sdk], name)), name


@pytest.mark.parametrize(("sdk", "name"), [(sdk, name) for sdk, names in REFUSED.items() for name in names])
def test_what_cannot_be_is_refused_in_one_line_that_scripts_catch_as_tinkers(clients, sdk, name):
    for error_type in (BackendError, tinker.TinkerError):
        with pytest.raises(error_type) as error:
            getattr(clients[sdk], name)()
        assert f"{sdk.__name__}.{name}: " in str(error.value)
        assert "\n" not in str(error.value)
    if name + "_async" in public(sdk):
        with pytest.raises(tinker.TinkerError, match=f"{sdk.__name__}.{name}: "):
            asyncio.run(getattr(clients[sdk], name + "_async")())


def test_a_sampling_client_cannot_be_pickled_and_says_so(clients):
    with pytest.raises(BackendError, match="can't be pickled: its weights live in this process"):
        pickle.dumps(clients[tinker.SamplingClient])


def test_importing_the_package_brings_neither_torch_nor_tinker():
    code = (
        "import sys, cookbook_plugin_local as local; "
        "assert not {'torch', 'tinker', 'transformers'} & set(sys.modules); "
        "local.ServiceClient; assert 'torch' in sys.modules; "
        "assert not hasattr(local, 'NoSuchClient')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

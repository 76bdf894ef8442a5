"""Whatever the OpenAPI allows, and what it does not, is answered with a status and a body that it names: generated requests."""

from __future__ import annotations

import pytest

from assay.serve.app import build_app
from serving import Lengths, service_of, serving

schemathesis = pytest.importorskip("schemathesis")
from hypothesis import HealthCheck, settings  # noqa: E402
from schemathesis.specs.openapi.checks import positive_data_acceptance  # noqa: E402

schema = schemathesis.openapi.from_dict(build_app(service_of(Lengths())).app.openapi())


@pytest.fixture(scope="module")
def url():
    with serving(service_of(Lengths())) as client:
        yield str(client.base_url)


@schema.exclude(path_regex="/v1/admin").parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_generated_requests_are_answered_as_the_openapi_says(case, url):
    seconds = case.body.get("timeout") if isinstance(case.body, dict) else None
    if type(seconds) in (int, float) and 0 < seconds < 1:
        case.body["timeout"] = 1.0  # a tiny one is rightly 504
    response = case.call(base_url=url)
    assert response.status_code < 500, response.text
    case.validate_response(response, excluded_checks=[positive_data_acceptance])  # an empty text is valid, and has no reward

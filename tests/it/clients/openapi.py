"""Whether an OpenAPI document is one: openapi.py <file>. Prints its version."""

import json
import sys

from openapi_spec_validator import OpenAPIV31SpecValidator

with open(sys.argv[1], encoding="utf-8") as file:
    DOCUMENT = json.load(file)
FAULTS = [f"{list(fault.absolute_path)}: {fault.message}" for fault in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()]
assert not FAULTS, "\n".join(FAULTS)
print(json.dumps(DOCUMENT["openapi"]))

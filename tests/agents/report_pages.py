"""What a report's page holds, for tests that read one."""

import base64
import json
import re

import numpy as np


def read_data(text):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found[1])


def unpack(array):
    flat = np.frombuffer(base64.b64decode(array["data"]), array["type"])
    return flat.reshape(array["shape"])

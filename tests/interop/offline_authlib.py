"""Exchanges and refreshes with Authlib, whose hooks add a DPoP proof to each request. Prints the refreshed answer.

    offline_authlib.py TOKEN_ENDPOINT USER_TOKEN SECRET TARGET
"""

import json
import os
import sys
import time
import uuid
import warnings

# The proofs need only the signature.
warnings.simplefilter("ignore")
# The test server listens on the loopback interface without TLS.
os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"

from authlib.integrations.base_client import OAuthError  # noqa: E402
from authlib.integrations.requests_client import OAuth2Session  # noqa: E402
from authlib.jose import JsonWebKey, jwt  # noqa: E402

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT = "urn:ietf:params:oauth:token-type:jwt"


class Proofs:
    """The DPoP key of the client, and the nonce that the server last asked for."""

    def __init__(self):
        self.key = JsonWebKey.generate_key("EC", "P-256", is_private=True)
        self.nonce = None

    def add(self, url, headers, body):
        header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": self.key.as_dict(is_private=False)}
        claims = {"htm": "POST", "htu": url, "iat": int(time.time()), "jti": str(uuid.uuid4())}
        if self.nonce:
            claims["nonce"] = self.nonce
        headers["DPoP"] = jwt.encode(header, claims, self.key).decode()
        return url, headers, body

    def learn(self, response):
        self.nonce = response.headers.get("DPoP-Nonce", self.nonce)
        return response


def session(secret, endpoint, proofs):
    made = OAuth2Session(
        "with-authlib", secret, token_endpoint=endpoint, token_endpoint_auth_method="client_secret_basic"
    )
    made.register_compliance_hook("refresh_token_request", proofs.add)
    for name in ("access_token", "refresh_token"):
        made.register_compliance_hook(name + "_response", proofs.learn)
    return made


def with_nonce(call):
    try:
        return call()
    except OAuthError as error:
        if error.error != "use_dpop_nonce":
            raise
        return call()


endpoint, user_token, secret, target = sys.argv[1:]
proofs = Proofs()
client = session(secret, endpoint, proofs)
exchanged = with_nonce(
    lambda: client.fetch_token(
        endpoint,
        grant_type=EXCHANGE,
        # Authlib has no hook for these requests.
        headers=proofs.add(endpoint, {}, "")[1],
        subject_token=user_token,
        subject_token_type=JWT,
        audience=target,
    )
)
refresh_token = exchanged["refresh_token"]
refreshed = dict(
    with_nonce(lambda: client.refresh_token(endpoint, refresh_token=refresh_token, scope="mail.read"))
)
# Under another key, the refresh token is of no use.
thief = session(secret, endpoint, Proofs())
try:
    with_nonce(lambda: thief.refresh_token(endpoint, refresh_token=refresh_token))
except OAuthError as error:
    refreshed["refused"] = {"error": error.error}
print(json.dumps(refreshed))

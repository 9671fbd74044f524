"""Nobody but this machine is served without saying who they are."""

import ipaddress
import socket

from foundation.settings import AccessSettings, SettingsError


def refuse_exposure(listening: socket.socket, access: AccessSettings) -> None:
    """Close the socket and raise SettingsError if other machines reach it and need not say who they are."""
    if access.require_auth or listening.family not in (socket.AF_INET, socket.AF_INET6):
        return
    address = str(listening.getsockname()[0])
    if not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        listening.close()
        raise SettingsError(
            f"ASKMESH_API_HOST: on {address} anyone in the network could ask and read answers: set"
            " ASKMESH_REQUIRE_AUTH=true and make a key with `askmesh keys create --tenant NAME`, or listen on 127.0.0.1"
        )

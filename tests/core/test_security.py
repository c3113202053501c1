"""What `[security]` in a config comes to: the files, the names in certificates, the address one may listen on."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from pathlib import Path

import pytest
from riteraft_core._address import Address
from riteraft_core._certificates import issue, make_ca
from riteraft_core._requests import Reply, Who, decode_reply, encode
from riteraft_core._security_options import SecurityOptions
from riteraft_core.errors import AuthenticationError
from riteraft_core.memory import MemoryNetwork
from riteraft_core.security import NOBODY, Mode, Security, Tls, check_exposure, check_server, read_principal
from riteraft_core.types import Hello, Principal, PrincipalRole, RefusalCode

from riteraft_core import Config, ConfigError, PluginError, open_node

from .nodes import Counter

LOGGER = logging.getLogger("riteraft.test")
NODE, CLIENT, ADMIN = PrincipalRole.NODE, PrincipalRole.CLIENT, PrincipalRole.ADMIN


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ca")
    make_ca(folder, "orders")
    for name in ("n1", "n2"):
        issue(folder, NODE, name, ["127.0.0.1", "localhost"])
    issue(folder, CLIENT, "app")
    return folder


def options(folder: Path, name: str = "node-n1") -> SecurityOptions:
    return SecurityOptions(ca=folder / "ca.pem", certificate=folder / f"{name}.pem", key=folder / f"{name}.key")


def load(given: SecurityOptions, *, node: bool = True) -> Security:
    return Security.load(given, "orders", LOGGER, node=node)


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("principal", [Principal(NODE, "orders", "n1"), Principal(ADMIN, "a/b c", "zoë %2F")])
def test_a_name_becomes_a_uri_and_back(principal: Principal) -> None:
    assert Principal.parse(principal.uri) == principal
    assert read_principal(["spiffe://elsewhere/x", principal.uri]) == principal


@pytest.mark.parametrize(
    "uri",
    [
        "riteraft://orders/node",
        "riteraft://orders/node/n1/more",
        "riteraft://orders/root/n1",
        "riteraft:///node/n1",
        "riteraft://orders/node/",
        "riteraft://orders/node/%6e1",
        "riteraft://orders/node/n 1",
        "riteraft://orders/node/%ff",
        "riteraft://orders/node/" + "n" * 201,
    ],
)
def test_a_malformed_name_is_refused(uri: str) -> None:
    with pytest.raises(AuthenticationError, match="malformed"):
        read_principal([uri])


def test_a_certificate_has_exactly_one_name() -> None:
    for uris in ([], ["https://example.org"], ["riteraft://orders/node/n1", "riteraft://orders/admin/n1"]):
        with pytest.raises(AuthenticationError, match="exactly one"):
            read_principal(uris)


def test_only_a_node_of_the_cluster_may_answer() -> None:
    security = Security("orders")
    assert check_server(["riteraft://orders/node/n1"], security).name == "n1"
    for uri in ("riteraft://orders/client/n1", "riteraft://orders/admin/n1", "riteraft://invoices/node/n1"):
        with pytest.raises(AuthenticationError, match="expected"):
            check_server([uri], security)


# --- TLS files -------------------------------------------------------------------------------------------------------


def test_the_three_files_make_mutual_tls(authority: Path) -> None:
    security = load(options(authority))
    assert security.mode is Mode.TLS
    assert security.principal == Principal(NODE, "orders", "n1")
    assert security.tls is not None
    material = security.tls.refresh()
    assert material.key == (authority / "node-n1.key").read_bytes()
    assert "PRIVATE" not in repr(material) + repr(security)


def test_a_client_may_ask_but_not_serve(authority: Path) -> None:
    with pytest.raises(ConfigError, match=r"security\.certificate: .*refused by every peer"):
        load(options(authority, "client-app"))
    security = load(options(authority, "client-app"), node=False)
    assert security.principal == Principal(CLIENT, "orders", "app")


@pytest.mark.parametrize("name", ["ca", "certificate", "key"])
def test_a_missing_file_is_named(authority: Path, name: str) -> None:
    given = options(authority).model_copy(update={name: Path("/nowhere/x.pem")})
    with pytest.raises(ConfigError, match=rf"^security\.{name}: /nowhere/x\.pem cannot be read: No such file"):
        load(given)


def test_a_key_that_others_can_read_is_refused(authority: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(authority, tmp_path / "ca")
    (folder / "node-n1.key").chmod(0o640)
    with pytest.raises(ConfigError, match=r"security\.key: .*mode 0640.*chmod 600"):
        load(options(folder))


def test_files_that_do_not_go_together_are_refused(authority: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="do not go together"):
        load(options(authority).model_copy(update={"key": authority / "node-n2.key"}))
    make_ca(tmp_path, "orders")
    with pytest.raises(ConfigError, match=r"security\.certificate: .*would be refused by every peer"):
        load(options(authority).model_copy(update={"ca": tmp_path / "ca.pem"}))
    with pytest.raises(ConfigError, match=r"security\.ca: .*no certificate"):
        load(options(authority).model_copy(update={"ca": authority / "ca.key"}))


def test_an_encrypted_key_is_refused_and_nobody_is_asked(authority: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key((authority / "node-n1.key").read_bytes(), password=None)
    encrypted = tmp_path / "n1.key"
    encrypted.touch(0o600)
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    with pytest.raises(ConfigError, match="the key is encrypted"):
        load(options(authority).model_copy(update={"key": encrypted}))


def test_a_certificate_of_another_cluster_is_refused(authority: Path) -> None:
    with pytest.raises(ConfigError, match="is for cluster 'orders', and `cluster` is 'invoices'"):
        Security.load(options(authority), "invoices", LOGGER)


def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    make_ca(tmp_path, "orders")
    issue(tmp_path, NODE, "n1", ["localhost"], days=-1)
    with pytest.raises(ConfigError, match="certificate has expired"):
        load(options(tmp_path))


# --- reload ----------------------------------------------------------------------------------------------------------


class Reloading:
    """A node's certificate files that are replaced under it."""

    def __init__(self, authority: Path, folder: Path) -> None:
        self.authority = shutil.copytree(authority, folder / "ca")
        self.tls = Tls(options(self.authority), "orders", LOGGER)
        self.first = self.tls.refresh()

    def renew(self, name: str = "n1") -> None:
        for suffix in (".pem", ".key"):
            (self.authority / f"node-{name}{suffix}").unlink()
        issue(self.authority, NODE, name, ["localhost"])

    def look(self) -> bool:
        """Look now, not in a second; say whether something new is in use."""
        self.tls._next_look = 0.0
        return self.tls.refresh() is not self.first


@pytest.fixture
def reloading(authority: Path, tmp_path: Path) -> Reloading:
    return Reloading(authority, tmp_path)


def test_a_new_certificate_is_used(reloading: Reloading) -> None:
    assert not reloading.look()
    reloading.renew()
    assert reloading.tls.refresh() is reloading.first  # the last look is too recent
    assert reloading.look()
    assert reloading.tls.refresh().certificate == (reloading.authority / "node-n1.pem").read_bytes()


def test_a_broken_new_certificate_leaves_the_old_one_in_force(
    reloading: Reloading, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    certificate = reloading.authority / "node-n1.pem"
    good = certificate.read_bytes()
    certificate.write_bytes(b"broken")
    for _ in range(5):
        assert not reloading.look()
    certificate.unlink()
    for _ in range(5):
        assert not reloading.look()
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    certificate.write_bytes(good)
    assert reloading.look()


def test_a_name_does_not_change_while_a_node_runs(reloading: Reloading, caplog: pytest.LogCaptureFixture) -> None:
    for suffix in (".pem", ".key"):
        shutil.copy(reloading.authority / f"node-n2{suffix}", reloading.authority / f"node-n1{suffix}")
    assert not reloading.look()
    assert "for a member's whole life" in caplog.text


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_a_secret_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(secrets.token_hex(32) + "\n")
    path.chmod(0o600)
    security = load(SecurityOptions(secret_file=path))
    assert security.mode is Mode.SECRET
    assert path.read_text().strip() not in repr(security)
    path.chmod(0o604)
    with pytest.raises(ConfigError, match=r"security\.secret_file: .*mode 0604.*chmod 600"):
        load(SecurityOptions(secret_file=path))


def test_a_weak_secret_says_how_to_make_a_better_one(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch(0o600)
    path.write_text("hunter2hunter2")
    with pytest.raises(ConfigError, match=r"security\.secret_file: .*openssl rand") as caught:
        load(SecurityOptions(secret_file=path))
    assert "hunter2" not in str(caught.value)


def test_a_secret_never_shows_in_a_config_or_its_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = secrets.token_hex(32)
    monkeypatch.setenv("RITERAFT_SECURITY__SECRET", secret)
    config = Config(cluster="orders", address="127.0.0.1:0")
    assert load(config.security).mode is Mode.SECRET
    assert secret not in repr(config) + str(config) + str(config.model_dump())
    for wrong in ({"ca": "x.pem"}, {"secrte": secret}):
        with pytest.raises(ConfigError) as caught:
            Config(cluster="orders", address="127.0.0.1:0", security=wrong)
        assert secret not in str(caught.value)
    for wrong_shape in (secret, {"secret": [secret]}):
        with pytest.raises(ConfigError) as caught:
            Config(cluster="orders", address="127.0.0.1:0", security=wrong_shape)
        assert secret not in str(caught.value)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "n1.toml"
    path.write_text(
        'cluster = "orders"\naddress = "127.0.0.1:0"\n[security]\nca = "c/ca.pem"\ncertificate = "n.pem"\nkey = "/k"\n'
    )
    security = Config.load(path).security
    assert (security.ca, security.certificate) == (tmp_path / "c/ca.pem", tmp_path / "n.pem")
    assert security.key == Path("/k")


def test_a_config_file_with_a_secret_must_be_private(tmp_path: Path) -> None:
    path = tmp_path / "n1.toml"
    path.write_text(f'cluster = "orders"\naddress = "127.0.0.1:0"\nsecurity.secret = "{secrets.token_hex(32)}"\n')
    path.chmod(0o644)
    with pytest.raises(ConfigError, match=r"security\.secret: .*mode 0644.*chmod 600"):
        Config.load(path)
    path.chmod(0o600)
    assert load(Config.load(path).security).mode is Mode.SECRET


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"ca": "a"}, "certificate and key missing"),
        ({"ca": "a", "certificate": "b", "key": "c", "secret": "s"}, "beside TLS"),
        ({"secret": "s", "secret_file": "f"}, "both given"),
        ({"secret": "s", "insecure": True}, "remove it"),
        ({"insecure": True, "tls": True}, "no such field"),
    ],
)
def test_ways_that_exclude_each_other_are_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=f"security.*{words}"):
        Config(cluster="orders", address="127.0.0.1:0", security=given)


# --- where to listen -------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_other_than_loopback_needs_a_way_to_authenticate(
    authority: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        await check_exposure(Address(host, 0), NOBODY, LOGGER)
    everywhere = Address("0.0.0.0", 0)  # noqa: S104 - nothing listens
    with pytest.raises(ConfigError, match=r"secret_file.*insecure = true"):
        await check_exposure(everywhere, NOBODY, LOGGER)
    await check_exposure(everywhere, load(options(authority)), LOGGER)
    assert not caplog.records
    secret = SecurityOptions.model_validate({"secret": secrets.token_hex(32)})
    await check_exposure(everywhere, load(secret), LOGGER)
    assert "reads it all" in caplog.text
    await check_exposure(everywhere, Security("orders", insecure=True), LOGGER)
    assert "without authentication" in caplog.text


def test_made_files_are_private_and_never_overwritten(tmp_path: Path) -> None:
    made = make_ca(tmp_path / "new", "orders")
    assert os.stat(made.key).st_mode & 0o777 == 0o600
    assert os.stat(tmp_path / "new").st_mode & 0o777 == 0o700
    before = made.key.read_bytes()
    with pytest.raises(ConfigError, match="there already"):
        make_ca(tmp_path / "new", "orders")
    assert made.key.read_bytes() == before


# --- a transport that forgets ----------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_with_tls_nobody_without_a_name_is_let_in_or_answered(authority: Path, tmp_path: Path) -> None:
    config = Config(
        cluster="orders",
        address="127.0.0.1:0",
        data_dir=tmp_path / "n1",
        bootstrap=True,
        security=options(authority).model_dump(exclude_none=True),
    )
    async with open_node(config, Counter()) as node:
        refusal = node.admit(Hello(b"", 0, 0, b"", 0))
        assert refusal is not None
        assert refusal.code is RefusalCode.FORBIDDEN
        reply = decode_reply(await node.request(None, encode(Who())))
        assert reply == Reply.refused("no certificate with a name was shown")
        assert node.status().counters["refused request: Who"] == 1


@pytest.mark.anyio
async def test_a_transport_that_cannot_secure_is_refused_by_name(authority: Path) -> None:
    config = Config(
        cluster="orders",
        address="127.0.0.1:0",
        bootstrap=True,
        transport={"name": "memory", "network": MemoryNetwork()},
        storage="memory",
        security=options(authority).model_dump(exclude_none=True),
    )
    with pytest.raises(PluginError, match='"memory" cannot carry out security mode tls, only none'):
        async with open_node(config, Counter()):
            pass

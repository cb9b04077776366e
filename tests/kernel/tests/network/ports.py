"""In a container with the host's network: what bind, connect and sendto make of ports. Prints NAME=VALUE lines."""
import errno, os, socket

own = int(os.environ["PORT0"])
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
ADDRESSES = {
    "4": (socket.AF_INET, "127.0.0.1"),
    "any4": (socket.AF_INET, "0.0.0.0"),
    "6": (socket.AF_INET6, "::1"),
    "dual": (socket.AF_INET6, "::"),
    "inside6": (socket.AF_INET6, "::ffff:127.0.0.1"),
}


def tell(name, work):
    try:
        print(f"{name}={work()}")
    except OSError as error:
        print(f"{name}={errno.errorcode.get(error.errno, error)}")


def bound(family, kind, address, port, reuse=False):
    one = socket.socket(family, kind)
    if reuse:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.bind((address, port))
    return one


def port_of(one):
    with one:
        return one.getsockname()[1]


def connected(family, kind, address):
    with bound(family, kind, address, own) as server, socket.socket(family, kind) as client:
        if kind == socket.SOCK_STREAM:
            server.listen()
        client.connect((address, own))
        return client.getsockname()[1]


for kind_name, kind in KINDS.items():
    for address_name, (family, address) in ADDRESSES.items():
        name = f"{kind_name}.{address_name}"
        tell(f"{name}.own", lambda: port_of(bound(family, kind, address, own)))
        tell(f"{name}.foreign", lambda: port_of(bound(family, kind, address, own + 1)))
        tell(f"{name}.shared", lambda: port_of(bound(family, kind, address, own + 1, True)))
        tell(f"{name}.zero", lambda: port_of(bound(family, kind, address, 0)))
    for address_name in ("4", "6"):
        family, address = ADDRESSES[address_name]
        tell(f"{kind_name}.{address_name}.connect", lambda: connected(family, kind, address))


def dual_connect():
    """An IPv6 socket to an IPv4 address."""
    with bound(socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1", own) as server:
        server.listen()
        with socket.socket(socket.AF_INET6) as client:
            client.connect(("::ffff:127.0.0.1", own))
            return client.getsockname()[1]


def many():
    """More connections than there are ports, to two places: what is in TIME_WAIT is in nobody's way."""
    servers = []
    for address in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
        server = bound(socket.AF_INET, socket.SOCK_STREAM, address, own)
        server.listen(64)
        servers.append((server, address))
    done = 0
    for _ in range(20):
        for server, address in servers:
            with socket.socket() as client:
                client.connect((address, own))
                accepted, _ = server.accept()
                client.close()
                accepted.close()
                done += 1
    return done


def unasked():
    """listen() without bind(): the kernel chooses a port and asks no hook."""
    with socket.socket() as server, socket.socket() as client:
        server.listen()
        client.settimeout(0.3)
        try:
            client.connect(("127.0.0.1", server.getsockname()[1]))
        except TimeoutError:
            return "unreached"
        return "reached"


def unbound():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.sendto(b"x", ("127.0.0.1", own))
        return "sent"


tell("dual.connect", dual_connect)
tell("many", many)
tell("unasked", unasked)
tell("unbound", unbound)

import pytest

from lwm.errors import UserError
from lwm.training.agreement import Host, agree, check_count, clock_skew, disagreements

HOSTS = [Host(f"h{index}", "c0", "k0", "v0", 4, 100.0 + index) for index in range(4)]


def test_hosts_that_agree():
    assert disagreements(HOSTS) == [] and clock_skew(HOSTS) == "" and agree({}) == ""


def test_each_difference_is_a_line_that_names_the_host():
    hosts = [HOSTS[0]._replace(code="k1"), *HOSTS[1:3], HOSTS[3]._replace(config="c1", devices=2)]
    assert disagreements(hosts) == [
        "host 3 (h3): config c1, on host 0 (h0) c0; start the same command with the same config on all hosts",
        "host 0 (h0): code k1, on host 1 (h1) k0; bring all hosts to the same commit",
        "host 3 (h3): devices 2, on host 0 (h0) 4; give all hosts as many devices",
    ]


def test_of_two_hosts_the_first_is_right():
    (line,) = disagreements([HOSTS[0], HOSTS[1]._replace(libraries="v1")])
    assert line.startswith("host 1 (h1): libraries v1, on host 0 (h0) v0; ")


def test_clocks_far_apart_are_one_warning():
    hosts = [HOSTS[0], HOSTS[1]._replace(clock=220.0), HOSTS[2]._replace(clock=90.0)]
    line = clock_skew(hosts)
    assert line == "warning: the clock of host 1 (h1) is 130 s ahead of that of host 2 (h2); set them by NTP"


def test_hosts_that_jax_did_not_join():
    check_count("", 4)
    check_count("4", 4)
    with pytest.raises(UserError, match="JAX_NUM_PROCESSES: 4 hosts were started, JAX found 1; "):
        check_count("4", 1)

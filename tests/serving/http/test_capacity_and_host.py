"""A server for this machine alone refuses other host names and pages of other sites."""


def test_other_host_names_and_origins_are_refused(server, photos):
    photo = photos[0].read_bytes()
    for headers in ({"host": "pets.example"}, {"origin": "https://evil.example"}):
        status, problem, _ = server.ask(body=photo, **headers)
        assert (status, problem["code"]) == (421, "misdirected_request")
    assert server.ask(body=photo, origin=server.address)[0] == 200

"""Parts of numbers in NequIP's evaluation are derivatives, and so are those of its functions of an edge."""

import pytest
import torch
from e3nn import o3

from hessgnn.potentials.nequip.algebra import add_mul, dual, function, product, times
from hessgnn.potentials.nequip.geometry import EdgeFunctions


@pytest.mark.parametrize("number", [0, 1, 3])
def test_parts_are_derivatives(number):
    generator = torch.Generator().manual_seed(number)
    x, v, h, u, c = (torch.randn(n, 4, dtype=torch.float64, generator=generator) for n in (1, number, number, 1, 1))

    def energy(point):
        return torch.sin(point) * (c[0] * point.square() - point)

    def along(point, direction):
        return torch.func.jvp(energy, (point,), (direction,))[1]

    mixed = [torch.func.jvp(lambda p, a=a: along(p, a), (x[0],), (b,))[1] for a, b in zip(v, h, strict=True)]
    expected = [energy(x[0]), *(along(x[0], a) for a in (*v, *h)), along(x[0], u[0]) + sum(mixed)]

    given = torch.cat([x, v, h, u])
    constant = torch.cat([c, torch.zeros(2 * number + 1, 4, dtype=torch.float64)])
    square = product(given.unbind(), given.unbind(), number, range(len(given)), add_mul)
    inner = times(constant, torch.stack(square), number) - given
    sine = function([torch.sin(x[0]), torch.cos(x[0]), -torch.sin(x[0])], given, number)
    torch.testing.assert_close(times(sine, inner, number), torch.stack(expected))
    new = torch.cat([times(sine, inner, number)[: 1 + number], times(sine, inner, number, start=1 + number)])
    torch.testing.assert_close(new, torch.stack(expected))
    paired = (sine[dual(len(sine))] * inner).sum(0)
    torch.testing.assert_close(paired, expected[-1])


@pytest.mark.parametrize("l_max", [0, 1, 3])
def test_functions_of_an_edge_know_their_derivatives(l_max):
    functions = EdgeFunctions(l_max).float().double()
    vectors = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def reference(vector):
        harmonics = o3.spherical_harmonics(list(range(l_max + 1)), vector, True, "component")
        return torch.cat([harmonics, vector.norm().view(1)])

    value, slope, curvature = functions(vectors)
    jacobian = torch.func.jacrev(reference)
    for got, wanted in ((value, reference), (slope, jacobian), (curvature, torch.func.jacrev(jacobian))):
        torch.testing.assert_close(got, torch.stack([wanted(one) for one in vectors]), rtol=1e-11, atol=1e-12)
    opposite = functions(-vectors)[0][:, :-1]
    torch.testing.assert_close(opposite, value[:, :-1] * functions.sign, rtol=0, atol=1e-14)

import torch

from inrcodec.adam import adam_step


def test_steps_are_those_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    leaf, target = (torch.randn(7, generator=generator) for _ in range(2))
    state = (leaf.clone(), torch.zeros(7), torch.zeros(7))
    leaf.requires_grad_()
    adam = torch.optim.Adam([leaf])
    for step in range(20):
        rate = 0.3 * (1 - step / 20)
        adam.param_groups[0]["lr"] = rate
        leaf.grad = (leaf - target).detach() ** 3
        adam.step()
        state = adam_step(state, (state[0] - target) ** 3, torch.tensor(rate), torch.tensor(step + 1.0))
    assert torch.allclose(state[0], leaf.detach(), rtol=1e-4, atol=1e-6)

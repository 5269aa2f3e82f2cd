from pathlib import Path
from typing import Any

import pytest
import torch

from optsteps.datasets.scene_prompts import prompts_of_all_tasks, vocabulary
from optsteps.models import TextUNet, save_network, text_to_image
from optsteps.models.text_unet import Tokenizer
from optsteps.models.unet import Attention
from optsteps.noise import FIRST_TEST_SAMPLE, unit_noise
from optsteps.processes import EDM, Flow

CPU = torch.device("cpu")


def network(**options: Any) -> TextUNet:
    torch.manual_seed(0)
    small = {"text_width": 32, "widths": (16, 32), "embedding": 32, **options}
    made = TextUNet(vocabulary(), 12, **small)
    for name, part in made.named_parameters():  # what starts at zero hides what it is added to
        if not part.any():
            torch.nn.init.normal_(part, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    return made.eval()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "scenes.safetensors"
    save_network(network(), path, {})
    return path


def model(weights: Path, **options: Any) -> Any:
    asked, judged = prompts_of_all_tasks(2, "train"), prompts_of_all_tasks(3, "test")
    given = {"process": Flow(), "prompts": asked, "test_prompts": judged, **options}
    return text_to_image(
        "scenes", str(weights), device=CPU, shape=(3, 32, 32), noise_max=999.0, noise_min=0.002, **given
    )


def test_words_are_numbers_and_nothing_is_zero() -> None:
    tokens = Tokenizer(["a", "red", "star"], 4)(["a red star", "star", ""])
    assert tokens.tolist() == [[1, 2, 3, 0], [3, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a purple star", r"prompt 2, 'a purple star', has the word 'purple'.*it knows a, red, star"),
        ("a a a a a", r"prompt 2, 'a a a a a', has 5 words; this model reads 4"),
        ("a Red star", r"the word 'Red'"),
    ],
)
def test_what_a_tokenizer_does_not_know(prompt: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Tokenizer(["a", "red", "star"], 4)(["a star", prompt])


def test_all_prompts_of_scenes_are_read() -> None:
    tokenizer = network().tokenizer
    asked = [*prompts_of_all_tasks(300, "train"), *prompts_of_all_tasks(300, "test")]
    words = [one.prompt for one in asked]
    tokens = tokenizer(words)
    lengths = (tokens > 0).sum(1).tolist()
    assert lengths == [len(prompt.split()) for prompt in words]
    assert len(tokens.unique(dim=0)) == len(set(words))


def test_every_word_and_its_place_matter() -> None:
    made = network()
    x, t = torch.randn(1, 3, 32, 32), torch.tensor([0.7])
    said = ["a photo of a red star", "a photo of a blue star", "a photo of a star red", ""]
    with torch.no_grad():
        out = [made(x, t, made.tokenizer([prompt])) for prompt in said]
        assert torch.equal(out[3], made(x, t, made.no_prompt))
    for k, one in enumerate(out):
        assert one.shape == x.shape
        for other in out[:k]:
            assert (one - other).abs().max() > 1e-4


def test_the_order_of_words_tells_whose_colour_is_which() -> None:
    made = network()
    said = made.tokenizer(["a photo of a red circle and a blue star", "a photo of a blue circle and a red star"])
    with torch.no_grad():
        red_circle, blue_circle = made.text(said)[:, 5]
    # of a bag of words the two are the same
    assert (red_circle - blue_circle).norm() > 0.05 * red_circle.norm()


def test_pixels_beside_words_know_where_they_are() -> None:
    torch.manual_seed(0)
    attention = Attention(32, context=8)
    torch.nn.init.normal_(attention.out.weight)
    grey, words = torch.ones(1, 32, 3, 4), torch.randn(1, 5, 8)
    with torch.no_grad():
        somewhere = attention(grey, grey, words)
        torch.nn.init.zeros_(attention.place.weight)  # type: ignore[union-attr]
        nowhere = attention(grey, grey, words)
    torch.testing.assert_close(nowhere, nowhere[..., :1, :1].expand_as(nowhere))
    pixels = somewhere[0].flatten(1).T
    apart = torch.cdist(pixels, pixels) + torch.eye(12) * 1e3
    assert apart.min() > 1e-2


def test_samples_of_a_batch_do_not_see_each_other() -> None:
    made = network(widths=(16, 24, 32), attended=2)
    x, t = torch.randn(3, 3, 32, 32), torch.tensor([0.1, 0.5, 0.9])
    tokens = made.tokenizer(["a photo of a star", "a photo of two bars", "a photo of a red circle"])
    with torch.no_grad():
        together, alone = (
            made(x, t, tokens),
            torch.cat([made(x[k : k + 1], t[k : k + 1], tokens[k : k + 1]) for k in range(3)]),
        )
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_a_model_from_its_file(weights: Path) -> None:
    found = model(weights)
    assert found.time_range == pytest.approx((0.999, 0.002 / 1.002))
    index = [0, 13, FIRST_TEST_SAMPLE, FIRST_TEST_SAMPLE + 19]
    train, test = prompts_of_all_tasks(2, "train"), prompts_of_all_tasks(3, "test")
    expected = [train[0], train[1], test[0], test[1]]
    assert found.metadata(index) == expected
    assert found.prompts(index) == [one.prompt for one in expected]
    assert torch.equal(found.cond(index, CPU), found.encode([one.prompt for one in expected]))
    # x_0 from the velocity u = eps - x_0 at x_t = (1 - t) x_0 + t eps
    x, t, cond = (
        unit_noise(0, range(4), found.shape),
        torch.tensor([0.9, 0.5, 0.1, 0.01]).double(),
        found.cond(index, CPU),
    )
    with torch.no_grad():
        velocity = network()(x, t.float(), cond)
        torch.testing.assert_close(found.denoiser(x, t, cond), x - t.float()[:, None, None, None] * velocity)


def test_guidance_leads_away_from_no_prompt(weights: Path) -> None:
    plain, guided = model(weights), model(weights, guidance=3.0)
    assert guided.denoiser.nfe == 2
    x, t = unit_noise(0, range(2), plain.shape), torch.tensor([0.9, 0.5]).double()
    cond, none = plain.cond(range(2), CPU), torch.zeros(2, 12, dtype=torch.long)
    with torch.no_grad():
        with_words, without = plain.denoiser(x, t, cond), plain.denoiser(x, t, none)
        torch.testing.assert_close(
            guided.denoiser(x, t, cond), without + 3 * (with_words - without), rtol=1e-4, atol=1e-4
        )


def test_prompts_from_files(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a photo of a star\na photo of two bars\n")
    found = model(weights, prompts=str(tmp_path / "a.txt"))
    assert found.prompts([0, 3]) == ["a photo of a star", "a photo of two bars"]
    assert found.metadata([0]) is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"process": EDM()}, r"choose process=flow"),
        ({"precision": "float16"}, r"precision must be 'float32' or 'bfloat16', got 'float16'"),
    ],
)
def test_what_cannot_be(options: dict[str, Any], said: str, weights: Path) -> None:
    with pytest.raises(ValueError, match=said):
        model(weights, **options)

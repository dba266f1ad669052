import bodies
import pytest
import tiny
import transformers as tf
from torch import nn

from pytest_compression.errors import RecipeError
from pytest_compression.models.anatomy import STACKS, blocks_of, stacks_of

every_kind = pytest.mark.parametrize("kind", sorted(STACKS))


def test_there_is_a_network_of_each_known_type_to_try_it_on() -> None:
    assert bodies.MADE.keys() == STACKS.keys()
    for kind in STACKS:
        assert bodies.network(kind).config.model_type == kind  # type: ignore[union-attr]


@every_kind
def test_the_blocks_are_found_in_the_order_in_which_they_are_run(kind: str) -> None:
    network = bodies.network(kind)
    run = list[nn.Module]()
    found = [block for stack in stacks_of(network) for block in blocks_of(network, stack).values()]
    for block in found:
        block.register_forward_pre_hook(lambda part, _: run.append(part))
    bodies.logits(network)
    passes = bodies.BLOCKS if kind == "albert" else 1  # its only block is run again and again
    assert run == found * passes
    assert len(found) * passes == bodies.BLOCKS * len(stacks_of(network))


@every_kind
def test_the_table_names_layers_that_each_block_has(kind: str) -> None:
    network = bodies.network(kind)
    for stack in stacks_of(network):
        for block in blocks_of(network, stack).values():
            names = dict(block.named_modules())
            linear = {name for name, part in names.items() if hasattr(part, "weight")}
            for attention in stack.attentions:
                assert {*attention.inputs, attention.output} <= linear
                assert isinstance(getattr(names[attention.module], attention.size), int)
            assert stack.feed_forward.output in linear
            assert linear & set(stack.feed_forward.inputs)


@every_kind
def test_the_configuration_has_the_settings_that_the_table_names(kind: str) -> None:
    config = bodies.network(kind).config
    for stack in STACKS[kind]:
        for name, number in (
            (stack.layers, bodies.BLOCKS),
            (stack.neurons, bodies.NEURONS),
            (stack.heads, bodies.HEADS),
        ):
            if name:
                assert getattr(config, name) == number


def test_other_types_are_refused() -> None:
    network = tf.MambaForCausalLM(
        tf.MambaConfig(vocab_size=tiny.VOCABULARY, hidden_size=8, num_hidden_layers=1, state_size=2)
    )
    with pytest.raises(RecipeError, match="of type 'mamba' are is not known, so none can be"):
        stacks_of(network)


def test_a_body_without_a_head_has_the_same_blocks() -> None:
    network = bodies.network("bert")
    stack = STACKS["bert"][0]
    inside = blocks_of(network.base_model, stack)  # type: ignore[arg-type]
    assert list(inside.values()) == list(blocks_of(network, stack).values())


def test_a_network_that_took_the_model_s_place_has_no_blocks() -> None:
    with pytest.raises(RecipeError, match=r"a Linear has no 'encoder.layer.#': where an earlier"):
        blocks_of(nn.Linear(1, 1), STACKS["bert"][0])
    with pytest.raises(RecipeError, match="of a model of type 'Linear' are is not known"):
        stacks_of(nn.Linear(1, 1))

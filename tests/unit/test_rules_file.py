"""Lead rules as a file for people."""

from __future__ import annotations

import pytest

from consumers.errors import Refused, RulesRefused
from consumers.lead_columns import digest
from consumers.lead_rules import Rule
from consumers.rules_file import RulesFile, parse, shipped_rules
from consumers.tenant_rules import tenant_rules

CAPIVARAS = """
off = ['pergunta-preco']
[parts]
animal = '(capivaras?|antas?)'
[lead.client]
animais = { weight = 30, pattern = '\\b<animal>\\b' }
"""
ANIMALS = Rule("animais", r"\b(capivaras?|antas?)\b", "lead", 30, "client")


def test_a_file_is_rules_with_their_parts_and_what_is_off() -> None:
    assert parse(CAPIVARAS) == RulesFile((ANIMALS,), ("pergunta-preco",))
    assert parse("") == RulesFile((), ())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[lead", "no TOML"),
        ("off = 'x'", "a list of names"),
        ("parts = 1", r"\[parts\] holds names"),
        ("[parts]\nx = 1", r"\[parts\] holds names"),
        ("lead = 1", "no table of rules"),
        ("[lead]\nx = 1", "no table of rules"),
        ("[lead.client]\nx = 'pattern'", "rule 'x': a rule is"),
        ("[lead.client]\nx = { weight = 1 }", "rule 'x': a rule is"),
        ("[lead.client]\nx = { weight = 1, pattern = '<y>' }", r"rule 'x': \[parts\] has no y"),
        (
            "[lead.client]\nx = { weight = 1, pattern = 'a' }\n[visit.any]\nx = { weight = 1, pattern = 'b' }",
            "several rules are named x",
        ),
        ("off = ['x']\n[lead.client]\nx = { weight = 1, pattern = 'a' }", "x can't be given and be off"),
    ],
)
def test_what_is_no_such_file_is_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(Refused, match=says):
        parse(text)


def test_own_rules_stand_beside_the_shipped_ones_or_in_their_place() -> None:
    shipped = shipped_rules()
    price = Rule("pergunta-preco", "preco", "lead", 5, "client")
    own = {"animais": ANIMALS, "pergunta-preco": price, "desconto": None}
    found = tenant_rules(shipped, own)
    assert found.refused == {}
    names = {rule.name: rule for rule in found.rules}
    assert names.keys() == {rule.name for rule in shipped} - {"desconto"} | {"animais"}
    assert names["pergunta-preco"] == price
    assert found.digest == tenant_rules(reversed(shipped), dict(reversed(own.items()))).digest == digest(found.rules)
    assert found.digest != tenant_rules(shipped, {}).digest


def test_too_many_rules_cost_a_tenant_its_own_and_none_of_the_shipped() -> None:
    shipped = shipped_rules()
    many: dict[str, Rule | None] = {f"r{n}": Rule(f"r{n}", f"x{n}y", "lead", 1, "any") for n in range(500)}
    found = tenant_rules(shipped, many)
    assert {rule.name for rule in shipped} <= {rule.name for rule in found.rules}
    assert len(found.refused) + len(found.rules) == len(shipped) + len(many)
    assert found.refused
    with pytest.raises(RulesRefused):
        tenant_rules([Rule("broken", "(", "lead", 1, "any")], {})

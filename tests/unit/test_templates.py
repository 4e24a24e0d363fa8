import os
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gitops_ml.templates import Command, Context, Hole, Malformed, data_variable, references, render


def names(template: str) -> list[str]:
    return [
        f"!{it.text}" if isinstance(it, Malformed) else f"{it.namespace}.{it.name} {it.context}"
        for it in references(template)
    ]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("a ${params.lr} ${data.train-x} ${trial.seed}", ["params.lr bare", "data.train-x bare", "trial.seed bare"]),
        ("${HOME} ${params} ${data[0]} ${data:-x} ${paramsx.y} $params.x {params.x}", []),
        ("${params.lr:-1}", ["!${params.lr:-1}"]),
        ("${params.}", ["!${params.}"]),
        ("${ params.lr }", ["!${ params.lr }"]),
        ("${params.lr", ["!${params.lr"]),
        ("${#params.lr}", ["!${#params.lr}"]),
        ("$${params.lr}", ["!${params.lr}"]),
        ("\\${params.lr}", ["!${params.lr}"]),
        ("'${params.a}' \"${params.b}\" ${params.c}", [
            "params.a single quotes", "params.b double quotes", "params.c bare"]),
        ("\"it's ${params.a}\" '\"${params.b}'", ["params.a double quotes", "params.b single quotes"]),
        ("\\'${params.a}\\'", ["params.a bare"]),
        ("$'it\\'s ${params.a}' ${params.b}", ["params.a single quotes", "params.b bare"]),
        ('"$(echo \'${params.a}\' "${params.b}" ${params.c})${params.d}"', [
            "params.a single quotes", "params.b double quotes", "params.c bare", "params.d double quotes"]),
        ("# don't\n${params.a}", ["params.a bare"]),
        ("a#'${params.a}'", ["params.a single quotes"]),
        ("cat <<EOF\nit's ${params.a}\nEOF\n${params.b}", ["params.a here-document", "params.b bare"]),
        ("cat <<-'E' | x '${params.z}'\n\tit's ${params.a}\n\tE\n${params.b}", [
            "params.z single quotes", "params.a here-document", "params.b bare"]),
        ("cat <<< '${params.a}' ${params.b}", ["params.a single quotes", "params.b bare"]),
    ],
)  # fmt: skip
def test_references__template__names_ours_and_where_they_stand(template, expected):
    assert names(template) == expected


def test_references__place__is_in_characters():
    (found,) = references("ä ${params.lr} x")

    assert "ä ${params.lr} x"[found.offset : found.offset + found.length] == "${params.lr}"
    assert (found.context, found.quoted) == (Context.BARE, False)


def test_render__list_of_arguments__values_and_holes():
    run = (
        "train",
        "--lr=${params.lr}",
        "${params.layers}",
        "-l${params.layers}",
        "${trial.output}/x",
        "${data.a-b}",
        "",
    )

    command = render(run, {"lr": 1e-5, "layers": (64, True)}, 3, "k")

    assert command == Command(
        shell=False,
        arguments=(
            ("train",),
            ("--lr=", "1e-05"),
            ("64",),
            ("true",),
            ("-l", "64,true"),
            (Hole("output"), "/x"),
            (Hole("data", "a-b"),),
            ("",),
        ),
    )


def shell(template: str, params: dict) -> list[str]:
    command = render(template, params, 7, "abc")
    assert command.shell
    ((text,),) = command.arguments
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        env={"PATH": os.environ["PATH"], "GITOPS_ML_OUTPUT": "/tmp/a b", "GITOPS_ML_DATA_A_B": "d$x"},
        capture_output=True,
        timeout=60,
        check=True,
    )
    return done.stdout.decode().split("\0")[:-1]


def test_render__string__a_real_shell_sees_the_values():
    seen = shell(
        'printf \'%s\\0\' ${params.t} "<${params.t}>" ${params.l} "${params.l}" ${trial.seed} ${trial.key} '
        '${trial.output}/x "${trial.output}" ${data.a-b} "$(printf %s ${params.t})"',
        {"t": "a 'b' \"$(id)\" `id` \\ !", "l": ("x y", 2, False)},
    )

    text = "a 'b' \"$(id)\" `id` \\ !"
    assert seen == [
        text, f"<{text}>", "x y", "2", "false", "x y 2 false", "7", "abc", "/tmp/a b/x", "/tmp/a b", "d$x", text,
    ]  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(st.text("ab'\"\\$`!(){}*~ \n#;&|<>-", max_size=12).filter(lambda text: "\0" not in text))
def test_render__any_value__reaches_the_program_unchanged(text):
    assert shell("printf '%s\\0' ${params.t} \"${params.t}\" x${params.t}", {"t": text}) == [text, text, f"x{text}"]


@settings(deadline=None)
@given(st.text("${}params.lr'\"\\()#<E\n ", max_size=40))
def test_references__any_template__gives_an_answer(template):
    for found in references(template):
        assert template[found.offset] == "$"


def test_data_variable__name__is_upper_case_with_underscores():
    assert data_variable("my-train_set") == "GITOPS_ML_DATA_MY_TRAIN_SET"

import pytest

from llm_service.upstream.template_markers import without_markers


@pytest.mark.parametrize(
    "marker",
    [
        "<|im_start|>",
        "<|im_end|>",
        "<|eot_id|>",
        "<|start_header_id|>",
        "<\uff5cUser\uff5c>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
        "[|user|]",
        "<s>",
        "</s>",
        "<bos>",
        "<eos>",
        "<start_of_turn>",
        "<end_of_turn>",
        "[INST]",
        "[/INST]",
        "[SYSTEM_PROMPT]",
        "[/TOOL_RESULTS]",
        "<<SYS>>",
        "<</SYS>>",
        "<|begin_of_text|>",
        "<|turn>",
        "<turn|>",
        "<repo_name>",
        "<file_sep>",
        "<jupyter_code>",
        "<fim_prefix>",
        "<tool_call>",
        "</think>",
        "<unused7>",
        "<seed:bos>",
        "[TOOL_CONTENT]",
        "[gMASK]",
        "\uff1c|im_end|\uff1e",
        "\uff1c\uff5cim_end\uff5c\uff1e",
        "\ufe64/\uff53\ufe65",
        "\uff3bINST\uff3d",
    ],
)
def test_a_marker_is_broken_and_reads_the_same(marker: str) -> None:
    broken = without_markers(f"a{marker}\n{marker}b")
    assert marker not in broken
    assert broken.replace("\u200b", "") == f"a{marker}\n{marker}b"
    assert without_markers(broken) == broken


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a < b | c > d",
        "if (a <b|| c> d)",
        "<strong>s</strong>",
        "x[0] | y[1]",
        "[1, 2]",
        "a[i] <b> [link](url) <br/> <table>",
        "list<int> x; vector<string> s; Map<K, V>",
        "[x for x in y] [TODO] [1] [args.name]",
        "👩\u200d🚀 שלום",
        "<|",
        "|>",
    ],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert without_markers(text) == text


def test_what_hides_a_marker_in_a_marker_makes_none() -> None:
    assert "<|im_end|>" not in without_markers("<|im_<|im_end|>end|>")

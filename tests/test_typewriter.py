import io

from lwm.serving.typewriter import Typewriter


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_gets_the_text_and_a_line_at_the_end():
    out, err = io.StringIO(), io.StringIO()
    with Typewriter(10, out=out, err=err) as typewriter:
        for piece in ("To ", "be\n", "or"):
            typewriter.say(piece)
            typewriter.count(3)
    assert out.getvalue() == "To be\nor"
    assert err.getvalue().startswith("text: 9 tokens · ") and err.getvalue().count("\n") == 1


def test_other_things_than_tokens_can_be_counted():
    err = io.StringIO()
    with Typewriter(3, what="picture 1", unit="steps", err=err) as typewriter:
        typewriter.count(3)
    assert err.getvalue().startswith("picture 1: 3 steps · ") and err.getvalue().endswith(" steps/s\n")


def test_a_pipe_beside_a_terminal_gets_nothing_but_the_text():
    out, err = io.StringIO(), Terminal()
    with Typewriter(10, what="poem", out=out, err=err) as typewriter:
        typewriter.say("To be")
        typewriter.count(5)
    assert out.getvalue() == "To be"
    assert "poem" in err.getvalue() and "5/10" in err.getvalue() and "To be" not in err.getvalue()


def test_on_a_terminal_the_text_stands_whole_above_the_bar():
    out, err = Terminal(), Terminal()
    with Typewriter(10, out=out, err=err) as typewriter:
        for piece in ("To ", "be,\nor [not", "] to be\n"):
            typewriter.say(piece)
    assert out.getvalue() == ""
    assert "To be," in err.getvalue() and "or [not] to be" in err.getvalue()

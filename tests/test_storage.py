import pytest
import torch

from bayesctx.storage import replacing


def write_half(path, error):
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize(
    "error", [RuntimeError("disk"), OSError(28, "no space"), KeyboardInterrupt()]
)
def test_an_old_file_stays_until_the_new_one_is_whole(error, tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OSError):
        write_half(path, error)
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        torch.save({"a": 1}, temporary)
    assert torch.load(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["file"]

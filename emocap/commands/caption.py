"""The command that writes captions."""

import json
from pathlib import Path
from typing import Any

from emocap.options import Amount, Count, Options, Whole, option, positional, required
from emocap.terminal import command_line

__all__ = ["Caption"]


class Caption(Options):
    """captions of photos that raise wished emotions"""

    model: str = positional("MODEL", "folder or Hub id of a captioner")
    image: str = required("a photo, or a folder of photos", metavar="FILE_OR_DIR")
    emotion: list[str] | None = option(
        "what the captions shall raise; a weight of 1 is as much as 2 %% of the training captions exceed (without: no "
        "wish)",
        action="extend",
        metavar="NAME[=WEIGHT]",
    )
    away_from: list[str] | None = option("what they shall not raise", action="extend", metavar="NAME")
    label_map: str | None = option(
        "YAML or JSON file of old and new names, as `emocap data pairs` takes it: wishes may then name the old ones, "
        "such as Ekman's; the new ones are the captioner's",
        metavar="FILE",
    )
    text: str | None = option("how each caption begins", metavar="TEXT")
    guidance_scale: Amount = option("how far words go by the wish: 1 as they were learned, above it further", 1.0)
    num_beams: Count = option("beams; 1: greedy, or sampling", 1)
    do_sample: bool = option("draw the words", False)
    num_captions: Count = option("captions a photo, with --do_sample or as many beams at least", 1)
    num_candidates: Count = option(
        "captions written of each photo, drawn or as many beams, of which those are kept that a teacher and the "
        "captioner together like best: how likely the words make the wish, and the photo the words",
        1,
    )
    judge: list[str] | None = option(
        "folder or Hub id of that teacher or student, or of several together (the teacher that scored the captions "
        "which the captioner learned from)",
        metavar="ID_OR_DIR",
    )
    max_new_tokens: Count | None = option("tokens at most (as long as the captioner learned to write)")
    batch_size: Count = option("photos a step", 16)
    seed: Whole = option("of --do_sample", 0)
    output: str | None = option("write a line of JSON a photo there, and not to the terminal", metavar="FILE")

    def run(self) -> list[dict[str, Any]]:
        needs_more = self.num_captions > 1 and self.num_candidates == 1
        if needs_more and not self.do_sample and self.num_beams < self.num_captions:
            raise ValueError(
                f"--num_captions is {self.num_captions}; it needs --do_sample, or --num_beams {self.num_captions}."
            )
        from emocap.captions import find_photos, read_wishes, write_captions

        photos = find_photos(self.image)
        written = write_captions(
            self.model,
            photos,
            read_wishes(self.emotion) if self.emotion else None,
            self.away_from,
            text=self.text,
            label_map=self.label_map,
            num_candidates=self.num_candidates,
            judge=self.judge,
            batch_size=self.batch_size,
            seed=self.seed,
            guidance_scale=self.guidance_scale,
            num_beams=self.num_beams,
            do_sample=self.do_sample,
            num_return_sequences=self.num_captions,
            **({} if self.max_new_tokens is None else {"max_new_tokens": self.max_new_tokens}),
        )
        rows = list(written)
        if self.output is not None:
            from emocap.data.storage import write_text

            Path(self.output).parent.mkdir(parents=True, exist_ok=True)
            write_text(self.output, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
        return rows

    def show(self, result: list[dict[str, Any]]) -> None:
        for row in result if self.output is None else ():
            print(json.dumps(row, ensure_ascii=False))

    def following(self, result: list[dict[str, Any]]) -> str:
        return command_line("evaluate", self.model, "--dataset", "ID_OR_DIR", "--judge", "ID_OR_DIR")

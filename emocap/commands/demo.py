"""The command that starts the app."""

from emocap.options import Options, option, positional

__all__ = ["Demo"]


class Demo(Options):
    """an app in the browser: emotions of photos and captions, and what spoke for them"""

    model: list[str] = positional("MODEL", "folder or Hub id of a teacher or student; several answer side by side")
    captioner: str | None = option("folder or Hub id of a captioner, which writes captions towards wished emotions")
    examples: str | None = option(
        "folder of photos to choose from, with captions in .txt files beside them (drawn scenes)", metavar="DIR"
    )
    share: bool = option("also at an address of gradio.live that everybody who knows it can open, for a week", False)

    def run(self) -> None:
        """Serves until it is stopped."""
        try:
            from emocap.demo import build_demo
        except ModuleNotFoundError as error:
            if error.name != "gradio":
                raise
            raise ImportError("emocap demo needs the extra 'demo': pip install 'emocap[demo]'.") from None
        build_demo(self.model, self.captioner, self.examples).launch(share=self.share)

    def show(self, result: None) -> None:
        pass

    def following(self, result: None) -> None:
        return None

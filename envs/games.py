"""The available games, and the spellings of their names."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from ale_py import roms

# The emulator has no single-player variant of these. Loading one does not raise: it ends the whole
# process with exit code 1, so they have to be refused beforehand.
_WITHOUT_SINGLE_PLAYER = frozenset({"combat", "joust", "maze_craze", "warlords"})
# The part of an id after the game's name; it sets frame skip, sticky actions and observations.
_OLDER_ID = re.compile(r"(-ram)?(Deterministic|NoFrameskip)?-v[0-5]$")


@dataclass(frozen=True)
class Game:
    """One Atari 2600 game.

    Attributes:
        name: The name in Gymnasium's ids, as in "MontezumaRevenge".
        rom: The name of the ROM in ale-py, as in "montezuma_revenge".
    """

    name: str
    rom: str

    @property
    def playable(self) -> bool:
        """Whether the emulator can start this game for a single player."""
        return self.rom not in _WITHOUT_SINGLE_PLAYER


class UnknownGameError(ValueError):
    """No game has the given name; the message is one line, with similar names."""


class UnplayableGameError(UnknownGameError):
    """The game's ROM is there, but the emulator cannot start it for a single player."""


@lru_cache(maxsize=1)
def list_games() -> tuple[Game, ...]:
    """Every game whose ROM ale-py ships, sorted by name.

    Four of them cannot be played (`Game.playable` is false): Combat, Joust, MazeCraze and Warlords.
    """
    games = (Game(rom.title().replace("_", ""), rom) for rom in roms.get_all_rom_ids())
    return tuple(sorted(games, key=lambda game: game.name))


def find_game(name: str) -> Game | None:
    """Find a game by any of its usual spellings; None if no game has this name.

    Case, blanks and punctuation do not matter, and neither does a possessive "'s":
    "MontezumaRevenge", "Montezuma's Revenge", "montezuma_revenge" and "ALE/MontezumaRevenge-v5" are
    the same game.

    Raises:
        UnplayableGameError: The game exists, but the emulator cannot start it.
    """
    games = _games_by_letters()
    bare = re.sub(r"^ale/|-v5$", "", name.strip(), flags=re.IGNORECASE)
    # "Yar's Revenge" keeps its s in the ROM's name, "Montezuma's Revenge" loses it: try both.
    for spelling in (_letters(bare), _letters(re.sub(r"['’]s\b", "", bare, flags=re.IGNORECASE))):
        if spelling in games:
            game = games[spelling]
            if not game.playable:
                raise UnplayableGameError(
                    f"game {game.name!r} cannot be played: "
                    "the emulator has no single-player variant of it"
                )
            return game
    return None


def resolve_game(name: str) -> Game:
    """Find a game by any of its usual spellings, see `find_game`.

    Raises:
        UnknownGameError: No game has this name; the message asks whether one like it was meant.
        UnplayableGameError: The game exists, but the emulator cannot start it.
    """
    game = find_game(name)
    if game is None:
        raise no_such_game(name)
    return game


def no_such_game(name: str, ids: Iterable[str] = ()) -> UnknownGameError:
    """The error for a name that no game has; it asks whether one like it was meant.

    Args:
        name: The name.
        ids: Ids of Gymnasium, which may have been meant too, but for their versions.
    """
    bare = re.sub(r"^ale/|-v\d+$", "", name.strip(), flags=re.IGNORECASE)
    known = {_letters(re.sub(r"-v\d+$", "", each)): each for each in ids}
    known |= {letters: game.name for letters, game in _games_by_letters().items() if game.playable}
    closest = difflib.get_close_matches(_letters(bare), known)
    names = " or ".join(known[letters] for letters in closest)
    question = f"; did you mean {names}?" if names else "."
    return UnknownGameError(f"unknown game {name!r}{question}")


def game_of_id(name: str) -> Game | None:
    """The game that an older Gymnasium id such as PongNoFrameskip-v4 stands for, or None."""
    bare, count = _OLDER_ID.subn("", name)
    return _games_by_letters().get(_letters(bare)) if count else None


@lru_cache(maxsize=1)
def _games_by_letters() -> dict[str, Game]:
    return {_letters(game.rom): game for game in list_games()}


def _letters(name: str) -> str:
    """Only the letters and digits of `name`, in lower case."""
    return re.sub(r"[^a-z0-9]", "", name.casefold())

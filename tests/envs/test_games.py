import subprocess
import sys

import pytest
from ale_py import roms

from envs import UnknownGameError, UnplayableGameError, list_games, resolve_game

UNPLAYABLE = ["combat", "joust", "maze_craze", "warlords"]


def test_every_rom_that_ale_ships_is_listed_once():
    games = list_games()
    assert sorted(game.rom for game in games) == sorted(roms.get_all_rom_ids())
    assert len({game.name for game in games}) == len(games)


def test_only_the_games_without_a_single_player_are_not_playable():
    assert [game.rom for game in list_games() if not game.playable] == UNPLAYABLE


@pytest.mark.parametrize(
    ("spelling", "rom"),
    [
        ("Frostbite", "frostbite"),
        ("  frostBITE ", "frostbite"),
        ("MontezumaRevenge", "montezuma_revenge"),
        ("Montezuma's Revenge", "montezuma_revenge"),
        ("Montezuma’s revenge", "montezuma_revenge"),
        ("montezuma_revenge", "montezuma_revenge"),
        ("ALE/MontezumaRevenge-v5", "montezuma_revenge"),
        ("Ms. Pac-Man", "ms_pacman"),
        ("Q*bert", "qbert"),
        ("H.E.R.O.", "hero"),
        ("Up 'n Down", "up_n_down"),
        ("Yars' Revenge", "yars_revenge"),
        ("Yar's Revenge", "yars_revenge"),
        ("TicTacToe3D", "tic_tac_toe_3d"),
    ],
)
def test_a_game_is_found_by_its_usual_spellings(spelling, rom):
    assert resolve_game(spelling).rom == rom


def test_every_playable_game_is_found_by_its_name_its_rom_and_its_id():
    for game in list_games():
        if game.playable:
            for spelling in (game.name, game.rom, f"ALE/{game.name}-v5"):
                assert resolve_game(spelling) == game


@pytest.mark.parametrize(
    ("name", "closest"), [("Frostbit", "Frostbite"), ("Montezuma", "MontezumaRevenge")]
)
def test_an_unknown_game_is_refused_in_one_line_with_the_closest_names(name, closest):
    with pytest.raises(UnknownGameError) as caught:
        resolve_game(name)
    assert repr(name) in str(caught.value)
    assert closest in str(caught.value)


@pytest.mark.parametrize("name", ["", "???", "two\nlines", "-v5", "ALE/"])
def test_a_name_that_resembles_nothing_is_still_refused_in_one_line(name):
    with pytest.raises(UnknownGameError) as caught:
        resolve_game(name)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("rom", UNPLAYABLE)
def test_a_game_that_the_emulator_cannot_start_is_refused_when_it_is_named(rom):
    with pytest.raises(UnplayableGameError, match="single-player"):
        resolve_game(rom)


@pytest.mark.slow
@pytest.mark.parametrize("rom", UNPLAYABLE)
def test_the_emulator_really_ends_the_process_on_an_unplayable_rom(rom):
    code = f"from ale_py.env import AtariEnv; AtariEnv({rom!r}); print('started')"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "started" not in ran.stdout
    assert "Traceback" not in ran.stderr

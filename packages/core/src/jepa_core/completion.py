"""What ``jepa completion bash|zsh|fish`` prints: a script that holds the names of what is installed now.

Keys, their few values, modalities and recipes stand in the script itself: asking a program for them would import torch
at every Tab. After a package is installed the script is printed anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jepa_core.checks import hint
from jepa_core.config import known_keys
from jepa_core.errors import ConfigError
from jepa_core.plugins import LoadFailure, modalities, recipes
from jepa_core.settings import RunSettings


@dataclass(frozen=True)
class Words:
    """What can be completed.

    Attributes:
        verbs: of the command.
        own: keys that belong to a verb itself.
        keys: settings by modality; under ``""`` those of every run.
        values: the only values of a key, where there are such.
        recipes: by modality.
    """

    verbs: Sequence[str]
    own: Mapping[str, Sequence[str]]
    keys: Mapping[str, Sequence[str]]
    values: Mapping[str, Sequence[str]]
    recipes: Mapping[str, Sequence[str]]


def words(verbs: Sequence[str], own: Mapping[str, Sequence[str]]) -> Words:
    """Names of everything installed; a modality that fails to load has none."""
    found = {name: each for name, each in modalities().items() if not isinstance(each, LoadFailure)}
    schemas: dict[str, type] = {"": RunSettings, **{name: each.schema for name, each in found.items()}}
    keys, values = {}, {}
    for name, schema in schemas.items():
        known = known_keys(schema)
        keys[name] = list(known)
        for path, key in known.items():
            choices = ("true", "false") if key.hint is bool else key.choices
            if choices:
                values[path] = list(choices)
    values["modality"] = list(found)
    return Words(verbs, own, keys, values, {name: list(recipes(each)) for name, each in found.items()})


def script(shell: str, known: Words) -> str:
    """The script of a shell.

    Raises:
        ConfigError: none of :data:`SHELLS`.
    """
    if shell not in SHELLS:
        raise ConfigError(f"shell: expected one of {', '.join(SHELLS)}, got {shell!r}{hint(shell, list(SHELLS))}")
    return SHELLS[shell](known)


def _case(entries: Mapping[str, Sequence[str]], variable: str, otherwise: Sequence[str] = ()) -> str:
    """A ``case`` that prints the words of an entry, one a line, for bash and zsh."""
    lines = [f"        '{name}') printf '%s\\n' {' '.join(each)} ;;" for name, each in entries.items() if each and name]
    rest = f"printf '%s\\n' {' '.join(otherwise)}" if otherwise else "return 1"
    return "\n".join([f'    case "${variable}" in', *lines, f"        *) {rest} ;;", "    esac"])


def _functions(known: Words) -> str:
    """What bash and zsh share: candidates of a key, of a value."""
    every = sorted({name for names in known.recipes.values() for name in names})
    return f"""_jepa_values() {{
{_case(known.values, "1")}
}}
_jepa_recipes() {{
{_case(known.recipes, "1", every)}
}}
_jepa_keys() {{
{_case(known.keys, "1", known.keys[""])}
}}
_jepa_own() {{
{_case(known.own, "1")}
}}
_jepa_candidates() {{
    # verb, modality, word: candidates, one a line; none where files are to be offered
    case "$3" in
        recipe=*) _jepa_recipes "$2" | sed 's/^/recipe=/' ;;
        *=*) local key="${{3%%=*}}"; _jepa_values "$key" | sed "s/^/$key=/" ;;
        *) _jepa_own "$1" | sed 's/$/=/'
           case "$1" in
               train|masks|probe|embed) _jepa_keys "$2" | sed 's/$/=/' ;;
               completion) printf '%s\\n' {" ".join(SHELLS)} ;;
           esac ;;
    esac
}}
_jepa_modality() {{
    local word
    for word in "$@"; do case "$word" in modality=*) printf '%s' "${{word#modality=}}"; return ;; esac; done
}}
"""


def _bash(known: Words) -> str:
    return f"""# jepa: completion for bash. Now: source <(jepa completion bash); for good: jepa completion bash \\
#   > ~/.local/share/bash-completion/completions/jepa
{_functions(known)}
_jepa() {{
    # The line, not COMP_WORDS: bash cuts words at "=".
    local line="${{COMP_LINE:0:COMP_POINT}}" words word found
    read -ra words <<< "$line"
    word="${{line##*[[:space:]]}}"
    COMPREPLY=()
    if [[ ${{#words[@]}} -le 1 || ( ${{#words[@]}} -eq 2 && -n "$word" ) ]]; then
        mapfile -t COMPREPLY < <(compgen -W "{" ".join(known.verbs)}" -- "$word")
        return
    fi
    found="$(_jepa_candidates "${{words[1]}}" "$(_jepa_modality "${{words[@]}}")" "$word")"
    mapfile -t COMPREPLY < <(compgen -W "$found" -- "$word")
    if [[ ${{#COMPREPLY[@]}} -eq 0 ]]; then
        mapfile -t COMPREPLY < <(compgen -f -- "${{word#*=}}")
        compopt -o filenames 2> /dev/null
    elif [[ "$word" == *=* && "$COMP_WORDBREAKS" == *=* ]]; then
        COMPREPLY=("${{COMPREPLY[@]#*=}}")
    elif [[ "$word" != *=* ]]; then
        compopt -o nospace 2> /dev/null
    fi
}}
complete -F _jepa jepa
"""


def _zsh(known: Words) -> str:
    return f"""#compdef jepa
# jepa: completion for zsh. Now: source <(jepa completion zsh); for good: a file _jepa in a folder of $fpath
{_functions(known)}
_jepa() {{
    local word="${{words[CURRENT]}}"
    if (( CURRENT == 2 )); then
        compadd -- {" ".join(known.verbs)}
        return
    fi
    local -a found
    found=("${{(@f)$(_jepa_candidates "${{words[2]}}" "$(_jepa_modality "${{words[@]}}")" "$word")}}")
    found=("${{(@M)found:#${{(b)word}}?*}}")
    # These take a path as it stands.
    [[ "$word" != *=* && " report embed compare neighbours list " == *" ${{words[2]}} "* ]] && _files
    if (( ${{#found}} )); then
        if [[ "$word" == *=* ]]; then compadd -- "${{found[@]}}"; else compadd -S '' -- "${{found[@]}}"; fi
    elif [[ "$word" == *=* ]]; then
        compset -P '*='
        _files
    fi
}}
(( $+functions[compdef] )) && compdef _jepa jepa
"""


_FISH_FILES = """function __jepa_takes_no_file
    # Files are offered after key= where the values are not known, and where a verb takes a path as it stands.
    set -l word (commandline -ct)
    switch $word
        case '*=*/*' '*=.*'
            return 1
        case {valued}
            return 0
        case '*=*'
            return 1
    end
    __fish_seen_subcommand_from train masks probe completion
end
complete -c jepa -n __jepa_takes_no_file -f"""


def _fish(known: Words) -> str:
    lines = ["# jepa: completion for fish. For good: jepa completion fish > ~/.config/fish/completions/jepa.fish"]
    lines.append(_FISH_FILES.format(valued=" ".join(f"'{key}=*'" for key in [*known.values, "recipe"])))
    lines.append("complete -c jepa -n __fish_use_subcommand -f -a '" + " ".join(known.verbs) + "'")
    seen = "__fish_seen_subcommand_from"
    lines.append(f"complete -c jepa -n '{seen} completion' -a '{' '.join(SHELLS)}'")
    for verb, own in known.own.items():
        if own:
            lines.append(f"complete -c jepa -n '{seen} {verb}' -a '{' '.join(f'{key}=' for key in own)}'")
    training = f"{seen} train masks probe embed"
    for name, keys in known.keys.items():
        chosen = f'{training}; and string match -q -- "*modality={name} *" (commandline)' if name else training
        offered = [f"{key}={value}" for key in keys for value in known.values.get(key, [""])]
        offered += [f"recipe={recipe}" for recipe in known.recipes.get(name, [])]
        lines.append(f"complete -c jepa -n '{chosen}' -a '{' '.join(offered)}'")
    return "\n".join(lines) + "\n"


SHELLS: Mapping[str, Callable[[Words], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}

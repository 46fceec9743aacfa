#!/usr/bin/env bash
# Every screen and figure in one folder, to be looked at: bash scripts/look.sh [FOLDER]
# Terminal captures as text and, with Chromium, as PNG at 80 and 120 columns; HTML in light, dark, 400 px and as PDF.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
look=$(realpath -m "${1:-outputs/look}")
runs=$look/runs
mkdir -p "$look/screens" "$look/figures" "$look/pages" "$runs"
export TERM=xterm-256color WANDB_MODE=offline

# what the terminal shows, at both widths; a command that trains runs once
screen() { # NAME WIDTH COMMAND...
  local name=$1 width=$2
  shift 2
  echo "$name, $width columns: $*"
  COLUMNS=$width python scripts/capture.py "$look/screens/$name-$width" "$width" "$@"
}
both() {
  local name=$1
  shift
  screen "$name" 80 "$@"
  screen "$name" 120 "$@"
}
small=(dataset.train_size=1600 dataset.eval_size=400 tracking=none)
screen train 80 rmbench train loss=normbt "${small[@]}" run_dir="$runs/normbt"
screen train 120 rmbench train loss=bt "${small[@]}" run_dir="$runs/bt"
rmbench train loss=bt training.max_steps=60 "${small[@]}" run_dir="$runs/piped" 2>&1 | cat > "$look/screens/train-piped.txt"
screen sweep 80 rmbench sweep loss=bt,normbt seed=0,1,2 training.max_steps=60 "${small[@]}" sweep_dir="$runs/sweep"
screen sweep-again 120 rmbench sweep loss=bt,normbt seed=0,1,2 training.max_steps=60 "${small[@]}" sweep_dir="$runs/sweep"
# one that is stopped, and one that fails
timeout --signal=TERM 25 rmbench train training.max_steps=100000 "${small[@]}" run_dir="$runs/stopped" > "$look/screens/stopped.txt" 2>&1 || true
rmbench train training.learning_rate=1e30 "${small[@]}" run_dir="$runs/failed" > "$look/screens/failed.txt" 2>&1 || true
both runs rmbench runs "$runs"
both report rmbench report "$runs/sweep"
both eval rmbench eval checkpoint="$runs/normbt" benchmark=synthetic run_dir="$runs/eval"
both diagnose rmbench diagnose checkpoint="$runs/normbt" against="$runs/bt" pairs=300 tracking=none run_dir="$runs/study"
both compare rmbench compare "$runs/bt" "$runs/normbt"
both inspect rmbench inspect dataset.train_size=400 dataset.eval_size=100
both losses rmbench losses
both loss rmbench losses normbt
both help rmbench train --help
both help-training rmbench train --help training
both help-loss rmbench train --help loss
both error rmbench train loss=normbtt
both error-key rmbench train training.learningrate=1

# figures: PNG, and PDF beside it
find "$runs" -path '*/checkpoint' -prune -o \( -name '*.png' -o -name '*.pdf' \) -print | while read -r file; do
  flat=${file#"$runs"/}
  cp "$file" "$look/figures/$(tr '/ ,=' '____' <<< "$flat")"
done
python scripts/panels.py "$look/figures/panels.png" "$runs/bt" "$runs/normbt"
cp outputs/losses/normbt.png "$look/figures/loss_normbt.png"
cp -r "$runs/sweep/tables" "$look/"

# the page in four forms
chromium=$(command -v chromium || command -v google-chrome || true)
if [ -z "$chromium" ]; then
  echo "no chromium: screens as text, no pictures of pages"
else
  python scripts/capture.py --page "$runs/sweep/report.html" "$look/pages"
fi
echo "look at $look"

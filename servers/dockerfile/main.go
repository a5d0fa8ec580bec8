// Reads a Dockerfile on standard input as `docker build` does, with BuildKit's own parser and
// linter, and prints what it holds as JSON: stages with their instructions, and warnings.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

type command struct {
	Name string `json:"name"`
	Line string `json:"line"`
	Args any    `json:"args"`
}

type stage struct {
	Name     string    `json:"name"`
	Base     string    `json:"base"`
	Commands []command `json:"commands"`
}

type told struct {
	Stages   []stage  `json:"stages"`
	Warnings []string `json:"warnings"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	parsed, err := parser.Parse(os.Stdin)
	if err != nil {
		return err
	}
	found := told{Stages: []stage{}, Warnings: []string{}}
	for _, each := range parsed.Warnings {
		found.Warnings = append(found.Warnings, each.Short)
	}
	rules := linter.New(&linter.Config{
		Warn: func(rule, _, _, message string, _ []parser.Range) {
			found.Warnings = append(found.Warnings, rule+": "+message)
		},
	})
	stages, _, err := instructions.Parse(parsed.AST, rules)
	if err != nil {
		return err
	}
	for _, each := range stages {
		made := stage{Name: each.Name, Base: each.BaseName, Commands: []command{}}
		for _, one := range each.Commands {
			made.Commands = append(made.Commands, command{
				Name: strings.ToUpper(one.Name()),
				Line: fmt.Sprint(one),
				Args: one,
			})
		}
		found.Stages = append(found.Stages, made)
	}
	return json.NewEncoder(os.Stdout).Encode(found)
}

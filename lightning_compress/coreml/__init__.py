"""Core ML packages: conversion, interface, post-training compression, sizes, atomic save."""
